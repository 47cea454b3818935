"""The model's own process: takes one prompt at a time from the parent and streams the answer.

Its own process because the runtime holds the GIL for a whole prefill slice, and because a native
crash or an out-of-memory kill here must not cost the MQTT connection.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from edgekit.agent.serve.decoder import Decoder, Logits, Tokenizer, open_model
from edgekit.agent.serve.pipe import (
    Cancel,
    Delta,
    Done,
    Failed,
    Pipe,
    PipeClosedError,
    Ready,
    Start,
    ToWorker,
)
from edgekit.agent.serve.sampling import Sampler
from edgekit.agent.serve.text import StopFilter, slices
from edgekit.core.chat import Timings, Usage
from edgekit.errors import EdgekitError

SLICE_TOKENS = 64  # the longest stretch in which a cancel is not seen
FLUSH_SECONDS = 0.1  # deltas are coalesced, since each costs over a millisecond of CPU: ADR 6
FLUSH_TOKENS = 32

Clock = Callable[[], float]


class _StoppedError(Exception):
    """The prompt was cancelled or ran out of time; the argument is the finish reason."""


class Worker:
    """Runs prompts on slot 0 of a decoder.

    Args:
        pipe: to the parent.
        decoder: with at least one slot.
        tokenizer: of the same model.
        clock: monotonic seconds, the parent's clock.
    """

    def __init__(
        self, pipe: Pipe[ToWorker], decoder: Decoder, tokenizer: Tokenizer, clock: Clock
    ) -> None:
        self._pipe = pipe
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._clock = clock

    def run(self) -> None:
        """Serve until the parent closes the pipe."""
        try:
            while True:
                message = self._pipe.receive()
                if isinstance(message, Start):
                    self._pipe.send(self._answer(message))
        except PipeClosedError:
            return

    def _answer(self, start: Start) -> Done | Failed:
        began = self._clock()
        try:
            prompt = self._tokenizer.encode_chat(start.messages)
        except Exception as error:  # the chat template is the model's own code
            return Failed(start.job, "invalid_request", f"the chat template refused: {error}")
        room = self._decoder.limits.max_length - len(prompt)
        if room < 1:
            return Failed(
                start.job,
                "context_length_exceeded",
                f"the prompt has {len(prompt)} tokens; "
                f"the context of {self._decoder.limits.max_length} leaves no room for an answer",
            )
        answer = _Answer(self._pipe, self._clock, start, self._tokenizer)
        prefilled = None
        try:
            logits = self._prefill(start, prompt)
            prefilled = self._clock()
            reason = "length"
            for token in islice(self._tokens(start, prompt, logits), min(start.answer_limit, room)):
                if answer.add(token):
                    reason = "stop"
                    break
                self._check(start)
        except _StoppedError as stopped:
            reason = str(stopped)
        ended = self._clock()
        prefilled = prefilled or ended
        return Done(
            start.job,
            answer.finish(),
            reason,
            Usage(len(prompt), answer.count, len(prompt) + answer.count),
            Timings(
                queue_ms=0.0,
                prompt_ms=(prefilled - began) * 1e3,
                first_token_ms=((answer.first_at or ended) - began) * 1e3,
                predicted_ms=(ended - prefilled) * 1e3,
                predicted_per_second=answer.count / max(ended - prefilled, 1e-9),
            ),
        )

    def _prefill(self, start: Start, prompt: list[int]) -> Logits:
        """Feed the prompt slice by slice; the logits after its last token."""
        self._decoder.truncate(0, 0)
        rest = iter(prompt)
        for size in slices(len(prompt), SLICE_TOKENS, self._decoder.limits.min_slice):
            self._check(start)
            logits = self._decoder.extend(0, list(islice(rest, size)))
        return logits

    def _tokens(self, start: Start, prompt: list[int], logits: Logits) -> Iterator[int]:
        """The answer's tokens, one step of the model behind the consumer."""
        if start.sampling.plain_greedy:
            while True:
                yield self._decoder.greedy(0)
        sampler = Sampler(start.sampling, prompt)
        while True:
            token = sampler.choose(logits)
            yield token
            logits = self._decoder.step({0: token})[0]

    def _check(self, running: Start) -> None:
        """Look at the pipe between two slices or tokens.

        Raises:
            _StoppedError: this prompt was cancelled or its deadline has passed.
        """
        while (message := self._pipe.receive(wait=False)) is not None:
            if isinstance(message, Cancel) and message.job == running.job:
                raise _StoppedError("cancelled")
        if self._clock() >= running.deadline:
            raise _StoppedError("deadline")


class _Answer:
    """The text of one answer: detokenised, stop strings cut, sent in coalesced deltas."""

    def __init__(self, pipe: Pipe[ToWorker], clock: Clock, start: Start, model: Tokenizer) -> None:
        self._pipe = pipe
        self._clock = clock
        self._job = start.job
        self._eos = model.eos_token_ids
        self._stream = model.stream()
        self._filter = StopFilter(start.stops)
        self._sent: list[str] = []
        self._unsent = ""
        self._unsent_tokens = 0
        self._flushed_at = 0.0
        self.count = 0  # tokens, the end-of-turn token included
        self.first_at: float | None = None

    def add(self, token: int) -> bool:
        """Take one token; True when it ended the answer."""
        now = self._clock()
        if self.first_at is None:
            self.first_at = now
        self.count += 1
        if token in self._eos:
            return True
        self._unsent += self._filter.push(self._stream.decode(token))
        self._unsent_tokens += 1
        due = now - self._flushed_at >= FLUSH_SECONDS or self._unsent_tokens >= FLUSH_TOKENS
        if self._unsent and due and not self._filter.stopped:
            self._flush(now)
        return self._filter.stopped

    def finish(self) -> str:
        """Send what is left; the whole text."""
        self._unsent += self._filter.flush()
        if self._unsent:
            self._flush(self._clock())
        return "".join(self._sent)

    def _flush(self, now: float) -> None:
        self._pipe.send(Delta(self._job, self._unsent))
        self._sent.append(self._unsent)
        self._unsent, self._unsent_tokens, self._flushed_at = "", 0, now


def main(descriptor: int, model_dir: Path, max_length: int, threads: int) -> None:
    """Load the model, answer one token to warm it up, then serve the pipe."""
    pipe: Pipe[ToWorker] = Pipe(socket.socket(fileno=descriptor), ToWorker)
    began = time.monotonic()
    try:
        decoder, tokenizer = open_model(
            model_dir, max_length, threads or len(os.sched_getaffinity(0))
        )
    except Exception as error:  # of native libraries: whatever they throw
        raise EdgekitError("the model cannot be loaded", str(error)) from error
    loaded = time.monotonic()
    decoder.extend(0, tokenizer.encode_chat([("user", "Hello")]))
    decoder.greedy(0)
    warm = time.monotonic()
    pipe.send(Ready((loaded - began) * 1e3, (warm - loaded) * 1e3))
    Worker(pipe, decoder, tokenizer, time.monotonic).run()
