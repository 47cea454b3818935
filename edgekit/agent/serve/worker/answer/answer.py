"""Detokenises one answer as it grows, cuts it at stop strings, and sends coalesced deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.agent.serve.worker.answer.logprobs import ShownLogprobs
from edgekit.agent.serve.worker.answer.text import StopFilter, Tokenizer
from edgekit.core.chat.logprobs import TokenLogprob

FLUSH_SECONDS = 0.05  # while the model leaves a CPU free to carry deltas: ADR 6
BUSY_FLUSH_SECONDS = 0.1  # while the model takes every CPU, and a delta makes it wait
FIRST_PAUSE_SECONDS = 0.001  # then, after a first delta: a CPU is free to carry it at once
FLUSH_TOKENS = 32


class Answer:
    """The text of one answer while the model generates it.

    Args:
        send: takes each delta, and the log-probabilities of its tokens.
        stops: the answer's stop strings.
        model: the tokenizer of the model that chooses the tokens.
        flush_seconds: seconds for which deltas are coalesced, after the first one.
        logprobs: whether each token comes with its log-probability.
    """

    def __init__(
        self,
        send: Callable[[str, list[TokenLogprob]], object],
        stops: Sequence[str],
        model: Tokenizer,
        flush_seconds: float = FLUSH_SECONDS,
        logprobs: bool = False,
    ) -> None:
        self._send = send
        self._flush_seconds = flush_seconds
        self._eos = model.eos_token_ids
        self._stream = model.stream()
        self._filter = StopFilter(stops)
        self._stops = bool(stops)
        self._undecoded: list[int] = []
        self._logprobs = ShownLogprobs() if logprobs else None
        self._sent: list[str] = []
        self._unsent = ""
        self._unsent_tokens = 0
        self._flushed_at = 0.0
        self.count = 0  # tokens, the end-of-turn token included
        self.first_at: float | None = None

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """The log-probabilities of all tokens that were sent; None if they are not asked for."""
        return None if self._logprobs is None else self._logprobs.all

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
        if due or self._stops:  # decoding makes the model wait: do it only when the text is needed
            self._decode()
            if due and self._unsent and not self._filter.stopped:
                self._flush(now)
        return self._filter.stopped

    def finish(self, now: float) -> str:
        """Send the rest of the text; return the whole text."""
        self._decode()
        self._unsent += self._filter.flush()
        left = self._logprobs is not None and self._logprobs.end(self._filter.stopped)
        if self._unsent or left:
            self._flush(now)
        return "".join(self._sent)

    def _decode(self) -> None:
        for token in self._undecoded:
            text = self._stream.decode(token)
            shown = self._filter.push(text)
            if self._logprobs is not None:
                self._logprobs.decoded(text, shown)
            self._unsent += shown
        self._undecoded.clear()

    def _flush(self, now: float) -> None:
        self._send(self._unsent, [] if self._logprobs is None else self._logprobs.take())
        self._sent.append(self._unsent)
        self._unsent, self._unsent_tokens, self._flushed_at = "", 0, now
