"""Detokenises one answer as it grows, cuts it at stop strings, and sends coalesced deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from edgekit.agent.serve.worker.answer.logprobs import ShownLogprobs
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece, TextReader, whole
from edgekit.agent.serve.worker.answer.text import StopFilter, Tokenizer
from edgekit.core.chat.logprobs import TokenLogprob

FLUSH_SECONDS = 0.05  # while the model leaves a CPU free to carry deltas: ADR 6
BUSY_FLUSH_SECONDS = 0.1  # while the model takes every CPU, and a delta makes it wait
FIRST_PAUSE_SECONDS = 0.001  # then, after a first delta: a CPU is free to carry it at once
FLUSH_TOKENS = 32


class Answer:
    """The text of one answer while the model generates it.

    Args:
        send: takes each delta.
        stops: the answer's stop strings.
        model: the tokenizer of the model that chooses the tokens.
        flush_seconds: seconds for which deltas are coalesced, after the first one.
        reader: takes the text apart; None for an answer that is nothing but text.
        logprobs: whether each token comes with its log-probability.
    """

    def __init__(
        self,
        send: Callable[[AnswerPiece], object],
        stops: Sequence[str],
        model: Tokenizer,
        flush_seconds: float = FLUSH_SECONDS,
        reader: TextReader | None = None,
        logprobs: bool = False,
    ) -> None:
        self._send = send
        self._flush_seconds = flush_seconds
        self._eos = model.eos_token_ids
        self._stream = model.stream(() if reader is None else reader.shown)
        self._filter = StopFilter(stops)
        self._reader = reader
        self._logprobs = ShownLogprobs() if logprobs else None
        self._watched = bool(stops) or reader is not None  # the text may end the answer
        self._undecoded: list[int] = []
        self._sent: list[AnswerPiece] = []
        self._unsent: list[AnswerPiece] = []
        self._unsent_tokens = 0
        self._flushed_at = 0.0
        self.count = 0  # tokens, the end-of-turn token included
        self.first_at: float | None = None

    def add(self, token: int, now: float, logprob: TokenLogprob | None = None) -> bool:
        """Add one token; return True if it ends the answer."""
        if self.first_at is None:
            self.first_at = now
        self.count += 1
        if token in self._eos:
            return True
        self._undecoded.append(token)
        if self._logprobs is not None and logprob is not None:
            self._logprobs.add(logprob)
        self._unsent_tokens += 1
        due = now - self._flushed_at >= self._flush_seconds or self._unsent_tokens >= FLUSH_TOKENS
        if due or self._watched:  # decoding makes the model wait: do it only for a use
            self._decode()
            if due and not self.stopped:
                self._flush(now)
        return self.stopped or (self._reader is not None and self._reader.ended)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._filter.stopped

    def finish(self, now: float) -> AnswerPiece:
        """Send the rest; return the whole answer."""
        self._decode()
        rest = self._stream.flush()
        shown = self._filter.push(rest) + self._filter.flush()
        if self._logprobs is not None:
            self._logprobs.completed(rest, shown)
        self._read(shown)
        if self._reader is not None:
            self._unsent.append(self._reader.flush())
        if self._logprobs is not None:
            self._logprobs.end(self.stopped)
            self._unsent.append(AnswerPiece(logprobs=self._logprobs.take()))
        self._flush(now)
        return whole(self._sent)

    def _decode(self) -> None:
        self._read("".join(map(self._shown, self._undecoded)))
        self._undecoded.clear()

    def _shown(self, token: int) -> str:
        text = self._stream.decode(token)
        shown = self._filter.push(text)
        if self._logprobs is not None:
            self._logprobs.decoded(text, shown)
        return shown

    def _read(self, text: str) -> None:
        self._unsent.append(AnswerPiece(text) if self._reader is None else self._reader.push(text))

    def _flush(self, now: float) -> None:
        piece = whole(self._unsent)
        if not piece:
            return
        if self._logprobs is not None:
            entries = [*piece.logprobs, *self._logprobs.take()]
            piece = msgspec.structs.replace(piece, logprobs=entries)
        self._send(piece)
        self._sent.append(piece)
        self._unsent, self._unsent_tokens, self._flushed_at = [], 0, now
