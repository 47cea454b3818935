"""A worker whose model chooses at random: the real tokens and grammars, and no weights."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np

from edgekit.agent.serve.pipe import Done, FromWorker, Pipe, Refused, Start, ToWorker
from edgekit.agent.serve.worker.decoder import Limits, Logits, Vision
from edgekit.agent.serve.worker.grammar.grammars import Grammars
from edgekit.agent.serve.worker.grammar.opening import open_compiler
from edgekit.agent.serve.worker.worker import Worker
from edgekit.core.chat.constraint.constraint import Constraint
from edgekit.core.chat.sampling import Sampling
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer

ENDING = 12  # tokens after which an answer tends to its end, else a string would be endless
URGE = 12.0  # added to the logits of tokens that end something
CLOSES = '"}]'


class RandomDecoder:
    """Slots whose logits are noise.

    Args:
        vocabulary: how many logits.
        closing: tokens that end a string, an array, an object or the answer.
        slots: how many.
        seed: of the noise.
    """

    vision: Vision | None = None

    def __init__(self, vocabulary: int, closing: Sequence[int], slots: int = 1, seed: int = 0):
        self.limits = Limits(slots, 4096, vocabulary)
        self._closing = np.array(closing)
        self._held = [0] * slots
        self._answered = [0] * slots
        self._random = np.random.default_rng(seed)
        self.forced = 0  # tokens that went in with others, after the prompt

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return self._held[slot]

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one slice."""
        if self._answered[slot]:
            self.forced += len(tokens) - 1
            self._answered[slot] += len(tokens)
        self._held[slot] += len(tokens)
        self._answered[slot] = max(self._answered[slot], 1)
        return self._logits(slot)

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token per slot."""
        for slot in tokens:
            self._held[slot] += 1
            self._answered[slot] += 1
        return {slot: self._logits(slot) for slot in tokens}

    def greedy(self, slot: int) -> int:
        """Append the arg-max."""
        token = int(self._logits(slot).argmax())
        self.step({slot: token})
        return token

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on; the next answer begins."""
        self._held[slot] = min(self._held[slot], length)
        self._answered[slot] = 0

    def _logits(self, slot: int) -> Logits:
        noise = self._random.standard_normal(self.limits.vocabulary, dtype=np.float32) * 3
        if self._answered[slot] > ENDING:
            noise[self._closing] += URGE
        return noise


@dataclass
class RandomModel:
    """The other end of the worker's pipe."""

    pipe: Pipe[FromWorker]
    decoder: RandomDecoder
    tokenizer: ChatTokenizer

    def answer(self, constraint: Constraint, limit: int, seed: int = 0) -> Done | Refused:
        """How one prompt ends, at temperature 1."""
        sampling = Sampling(temperature=1.0, seed=seed)
        turns = [("user", f"Hello {seed}")]
        self.pipe.send(Start("a/1", "a", turns, sampling, [], limit, 1e12, constraint=constraint))
        while True:
            message = self.pipe.receive()
            if isinstance(message, Done | Refused):
                return message


@contextmanager
def random_model(folder: Path, vocabulary: int, seed: int = 0) -> Iterator[RandomModel]:
    """A running worker with the tokenizer of a model's folder."""
    tokenizer = open_tokenizer(folder)
    stream = (tokenizer.stream().decode(token) for token in range(vocabulary))
    closing = [n for n, text in enumerate(stream) if text and text[0] in CLOSES and len(text) < 3]
    decoder = RandomDecoder(vocabulary, [*closing, *tokenizer.eos_token_ids], seed=seed)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    worker = Worker(
        Pipe(theirs, ToWorker),
        decoder,
        tokenizer,
        monotonic,
        grammars=Grammars(
            partial(open_compiler, tokenizer.table, vocabulary, tokenizer.eos_token_ids)
        ),
    )
    thread = threading.Thread(target=worker.run, daemon=True)
    with ours, theirs:
        thread.start()
        yield RandomModel(Pipe(ours, FromWorker), decoder, tokenizer)
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive(), "the worker outlives its parent"
