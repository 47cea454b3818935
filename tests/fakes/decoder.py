"""A decoder and a tokenizer without a model, equal to the real ones in `contract/test_decoder.py`.

A token is a byte of UTF-8, or one of the two special ones. What comes next is noise that depends
on every token of the slot, or a scripted answer.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.agent.serve.decoder import Limits, Logits

EOS = 256
VOCABULARY = 260


class FakeDecoder:
    """One slot.

    Args:
        max_length: tokens of the slot.
        answer: tokens that are most likely one after the other, begun wherever nothing of it was
            said yet.
        before: called with the method's name before each computation.
    """

    def __init__(
        self,
        max_length: int,
        answer: Sequence[int] = (),
        before: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.limits = Limits(slots=1, max_length=max_length)
        self.calls: list[tuple[str, int]] = []  # method and number of tokens
        self._answer = list(answer)
        self._before = before
        self._tokens: list[int] = []

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return len(self._tokens)

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice; one of a single token is a mistake of the caller."""
        assert len(tokens) >= self.limits.min_slice or not self._tokens, "a slice of one token"
        self._add("extend", tokens)
        return self._logits()

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token."""
        self._add("step", [tokens[0]])
        return {0: self._logits()}

    def greedy(self, slot: int) -> int:
        """Append the arg-max."""
        token = int(self._logits().argmax())
        self._add("greedy", [token])
        return token

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        del self._tokens[length:]

    def _add(self, method: str, tokens: Sequence[int]) -> None:
        self._before(method)
        if len(self._tokens) + len(tokens) > self.limits.max_length:
            raise RuntimeError("more tokens than the slot holds")
        self.calls.append((method, len(tokens)))
        self._tokens += tokens

    def _logits(self) -> Logits:
        seed = zlib.crc32(np.asarray(self._tokens, dtype=np.int32).tobytes())
        logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
        said = next(n for n in range(len(self._answer), -1, -1) if self._ends_with(n))
        if said < len(self._answer):
            logits[self._answer[said]] += 100
        return logits

    def _ends_with(self, count: int) -> bool:
        """Whether the slot ends with so many tokens of the answer."""
        return self._tokens[len(self._tokens) - count :] == self._answer[:count]


class FakeStream:
    """Whole characters only."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def decode(self, token: int) -> str:
        """The text this token completes."""
        return self._decoder.decode(bytes([token])) if token < EOS else ""


class FakeTokenizer:
    """Bytes; a chat is `role:content` line by line."""

    eos_token_ids = frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The turns and the beginning of the answer."""
        return self.encode("".join(f"{role}:{text}\n" for role, text in messages) + "assistant:")

    def stream(self) -> FakeStream:
        """A new stream."""
        return FakeStream()
