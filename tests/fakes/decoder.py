"""A decoder and a tokenizer without a model, equal to the real ones in `contract/test_decoder.py`.

A token is a byte of UTF-8, or one of the two special ones. What comes next is noise that depends
on every token of the slot, or a scripted answer.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.agent.serve.worker.answer.text import role_of
from edgekit.agent.serve.worker.decoder import Limits, Logits, Vision
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import NOTHING, Value

_PLAIN = ("role", "content")
EOS = 256
VOCABULARY = 260


class FakeDecoder:
    """Slots that are lists.

    Args:
        max_length: tokens of a slot.
        answer: tokens that are most likely one after the other, begun wherever nothing of it was
            said yet.
        before: called with the method's name before each computation.
        slots: how many.
        limits: changes to what it says of itself.
    """

    def __init__(
        self,
        max_length: int,
        answer: Sequence[int] = (),
        before: Callable[[str], None] = lambda _: None,
        slots: int = 1,
        **limits: Any,
    ) -> None:
        self.limits = Limits(slots, max_length, VOCABULARY, **limits)
        self.vision: Vision | None = None
        self.calls: list[tuple[str, int]] = []  # method and number of tokens
        self.batches: list[int] = []  # slots of each step
        self._answer = list(answer)
        self._before = before
        self.held: list[list[int]] = [[] for _ in range(slots)]

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return len(self.held[slot])

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice; one of a single token is a mistake of the caller."""
        assert len(tokens) >= self.limits.min_slice or not self.held[slot], "a slice of one token"
        self._add("extend", slot, tokens)
        return self._logits(slot)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token per slot."""
        self.batches.append(len(tokens))
        for slot, token in tokens.items():
            self._add("step", slot, [token])
        return {slot: self._logits(slot) for slot in tokens}

    def greedy(self, slot: int) -> int:
        """Append the arg-max."""
        token = int(self._logits(slot).argmax())
        self._add("greedy", slot, [token])
        return token

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        assert self.limits.can_truncate or length in (0, len(self.held[slot]))
        del self.held[slot][length:]

    def _add(self, method: str, slot: int, tokens: Sequence[int]) -> None:
        self._before(method)
        if len(self.held[slot]) + len(tokens) > self.limits.max_length:
            raise RuntimeError("more tokens than the slot holds")
        self.calls.append((method, len(tokens)))
        self.held[slot] += tokens

    def _logits(self, slot: int) -> Logits:
        held = self.held[slot]
        seed = zlib.crc32(np.asarray(held, dtype=np.int32).tobytes())
        logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
        answer = self._answer
        said = next(n for n in range(len(answer), -1, -1) if held[len(held) - n :] == answer[:n])
        if said < len(answer):
            logits[answer[said]] += 100
        return logits


class FakeBeams:
    """A beam search that finds the scripted answer.

    Args:
        answer: what it finds, the token that ends it included.
        before: called before the prompt is computed and before each step.

    Attributes:
        free_tokens: of the memory, for all beams together.
    """

    def __init__(self, answer: Sequence[int], before: Callable[[], None] = lambda: None) -> None:
        self.asked: list[tuple[int, int, int, float]] = []  # prompt length and the rest
        self._answer = list(answer)
        self._before = before
        self._taken = self._limit = 0
        self.free_tokens = 1 << 30

    def __call__(
        self, prompt: Sequence[int], beams: int, answer_limit: int, length_penalty: float
    ) -> FakeBeams:
        """Start."""
        self._before()
        self.asked.append((len(prompt), beams, answer_limit, length_penalty))
        self._taken, self._limit = 0, min(answer_limit, len(self._answer))
        return self

    def room(self, prompt: int, answer: int) -> int:
        """How many beams of so many tokens there is memory for."""
        return self.free_tokens // (prompt + answer)

    def step(self) -> bool:
        """One token more."""
        self._before()
        self._taken += 1
        return self._taken < self._limit

    def best(self) -> list[int]:
        """What was found."""
        return [token for token in self._answer[: self._taken] if token != EOS]


class FakeStream:
    """Whole characters only."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def decode(self, token: int) -> str:
        """The text this token completes."""
        return self._decoder.decode(bytes([token])) if token < EOS else ""

    def flush(self) -> str:
        """The whole characters of what is held: none, as a token is one byte."""
        return ""


class FakeTokenizer:
    """Bytes; a chat is `role:content` line by line."""

    eos_token_ids = frozenset({EOS})
    template_texts: Sequence[str] = ()
    template_options: Sequence[str] = ()

    def encode(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    def encode_chat(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[int]:
        """The turns and the beginning of the answer."""
        return [each for piece in self.encode_around(turns, tools, options) for each in piece]

    def encode_around(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[list[int]]:
        """The same, cut where pictures are."""
        first = "".join(f"{json.dumps(each)}\n" for each in (*tools, options) if each)
        joined = "".join(f"{role_of(turn)}:{_written(turn)}\n" for turn in turns)
        return [self.encode(piece) for piece in f"{first}{joined}assistant:".split("\0")]

    def end_of(self, tokens: Sequence[int]) -> str:
        """The text of all of them."""
        return bytes(token for token in tokens if token < EOS).decode()

    def bytes_of(self, token: int) -> bytes:
        """The byte, or the name of a special token."""
        return bytes([token]) if token < EOS else f"<{token}>".encode()

    def stream(self, shown: Collection[str] = ()) -> FakeStream:
        """A new stream."""
        return FakeStream()


def _written(turn: Turn) -> str:
    content = turn[1] if isinstance(turn, tuple) else turn["content"]
    more = {} if isinstance(turn, tuple) else {k: v for k, v in turn.items() if k not in _PLAIN}
    text = "".join(part if isinstance(part, str) else "\0" for part in content or "")
    return text + (json.dumps(more) if more else "")
