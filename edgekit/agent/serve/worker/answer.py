"""The text of one answer as it grows: detokenised, stop strings cut, sent in coalesced deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.agent.serve.worker.decoder import Tokenizer
from edgekit.agent.serve.worker.text import StopFilter

FLUSH_SECONDS = 0.05  # where the model leaves a CPU to those who carry a delta: ADR 6
BUSY_FLUSH_SECONDS = 0.1  # where its threads take all of them, and a delta makes one wait
FIRST_PAUSE_SECONDS = 0.001  # there, after the first delta: those who carry it get a CPU at once
FLUSH_TOKENS = 32


class Answer:
    """One answer.

    Args:
        send: takes each delta.
        stops: its stop strings.
        model: whose tokens they are.
        flush_seconds: for how long deltas are coalesced, after the first one.
    """

    def __init__(
        self,
        send: Callable[[str], object],
        stops: Sequence[str],
        model: Tokenizer,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._send = send
        self._flush_seconds = flush_seconds
        self._eos = model.eos_token_ids
        self._stream = model.stream()
        self._filter = StopFilter(stops)
        self._stops = bool(stops)
        self._undecoded: list[int] = []
        self._sent: list[str] = []
        self._unsent = ""
        self._unsent_tokens = 0
        self._flushed_at = 0.0
        self.count = 0  # tokens, the end-of-turn token included
        self.first_at: float | None = None

    def add(self, token: int, now: float) -> bool:
        """Take one token; True when it ended the answer."""
        if self.first_at is None:
            self.first_at = now
        self.count += 1
        if token in self._eos:
            return True
        self._undecoded.append(token)
        self._unsent_tokens += 1
        due = now - self._flushed_at >= self._flush_seconds or self._unsent_tokens >= FLUSH_TOKENS
        if due or self._stops:  # else its text is nobody's business yet, and the model waits for us
            self._decode()
            if due and self._unsent and not self._filter.stopped:
                self._flush(now)
        return self._filter.stopped

    def finish(self, now: float) -> str:
        """Send what is left; the whole text."""
        self._decode()
        self._unsent += self._filter.flush()
        if self._unsent:
            self._flush(now)
        return "".join(self._sent)

    def _decode(self) -> None:
        for token in self._undecoded:
            self._unsent += self._filter.push(self._stream.decode(token))
        self._undecoded.clear()

    def _flush(self, now: float) -> None:
        self._send(self._unsent)
        self._sent.append(self._unsent)
        self._unsent, self._unsent_tokens, self._flushed_at = "", 0, now
