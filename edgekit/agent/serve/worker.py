"""The model's own process: runs prompts side by side in the decoder's slots, streams the answers.

Its own process because the runtime holds the GIL for a whole prefill slice, and because a native
crash or an out-of-memory kill here must not cost the MQTT connection.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path

from edgekit.agent.serve import beam
from edgekit.agent.serve.admission import RefusedError, admit, beams_served
from edgekit.agent.serve.answer import BUSY_FLUSH_SECONDS, FLUSH_SECONDS, Answer
from edgekit.agent.serve.decoder import BeamSearch, Decoder, Options, Tokenizer, open_model
from edgekit.agent.serve.generation import Generation
from edgekit.agent.serve.pipe import (
    Cancel,
    Delta,
    Done,
    Failed,
    FromWorker,
    Heartbeat,
    Pipe,
    PipeClosedError,
    Ready,
    Start,
    ToWorker,
)
from edgekit.agent.serve.prefix import Slot, Wanted, choose_slot, common_length
from edgekit.agent.serve.processors import ProcessorFactory
from edgekit.agent.serve.progress import HEARTBEAT_SECONDS, quiet_seconds
from edgekit.agent.serve.sampling import Sampler
from edgekit.agent.serve.scheduler import SLICE_TOKENS, next_work
from edgekit.agent.serve.scoring import load_factory
from edgekit.agent.serve.tune import TUNE_SECONDS, cpus, tuned
from edgekit.core.chat import Timings, Usage
from edgekit.errors import EdgekitError

log = logging.getLogger(__name__)

SYSTEM_ROLES = ("system", "developer")
MAX_SYSTEM_MESSAGES = 64  # whose tokens are remembered

Clock = Callable[[], float]


class Worker:
    """Runs prompts on the slots of a decoder; more than there are slots wait in order.

    Args:
        pipe: to the parent.
        decoder: with at least one slot.
        tokenizer: of the same model.
        clock: monotonic seconds, the parent's clock.
        processors: makes custom scoring for each prompt.
        beams: the model's beam search.
        max_beams: that a prompt may ask for; 1 refuses beam search.
        flush_seconds: for how long deltas are coalesced.
    """

    def __init__(
        self,
        pipe: Pipe[ToWorker],
        decoder: Decoder,
        tokenizer: Tokenizer,
        clock: Clock,
        processors: ProcessorFactory | None = None,
        beams: BeamSearch | None = None,
        max_beams: int = 1,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._pipe = pipe
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._clock = clock
        self._processors = processors
        self._beams = beams
        self._max_beams = max_beams if beams is not None else 1
        self._flush_seconds = flush_seconds
        self._alone: Start | None = None  # the beam search that runs
        self._stopped = ""  # and why it is to stop
        self._idle = [Slot(number) for number in range(decoder.limits.slots)]
        self._jobs: dict[int, Generation] = {}  # by slot
        self._waiting: deque[Start] = deque()
        self._fed_last = -1
        self._said_at = 0.0
        self._turns = 0
        self._systems: OrderedDict[tuple[tuple[str, str], ...], list[int]] = OrderedDict()

    def run(self) -> None:
        """Serve until the parent closes the pipe."""
        try:
            while True:
                if not (self._jobs or self._waiting):
                    self._listen(wait=True)
                    self._said_at = self._clock()  # it owed nothing
                while self._waiting and self._may_begin(self._waiting[0]):
                    self._begin(self._waiting.popleft())
                self._turn()
        except PipeClosedError:
            return

    def _turn(self) -> None:
        """One slice of a prefill and one token of every answer, as far as there are any.

        Where nothing but one answer runs, all its tokens until something happens.
        """
        loads = [job.load for job in self._jobs.values()]
        limits = self._decoder.limits
        self._turns += 1
        turn = None if limits.batched else self._turns
        work = next_work(loads, self._fed_last, limits.min_slice, turn)
        if work.feed is not None:
            slot, count = work.feed
            self._fed_last = slot
            self._announce(count)
            self._jobs[slot].feed(count)
            self._listen()
            job = self._jobs.get(slot)
            if job is not None and not job.load.remaining:
                self._decode([job])  # the first token waits for nobody
        steps = [self._jobs[slot] for slot in work.step if slot in self._jobs]
        if work.feed is None and len(self._jobs) == 1 and steps:
            self._decode_alone(steps[0])
        elif limits.batched:
            self._decode(steps)
        else:
            for job in steps:
                if job.slot.number in self._jobs:
                    self._decode([job])

    def _decode_alone(self, job: Generation) -> None:
        """Tokens of the only answer that runs, until anything else is to be done.

        A loop of its own: after each token the caches are the model's, and what `_turn` does cost
        200 us cold, 2 % of a token of SmolLM2.
        """
        until = min(start.deadline for start in (job.start, *self._waiting))
        until = min(until, self._clock() + HEARTBEAT_SECONDS)  # its text may all be held back
        while job.decodes:
            reason = job.advance()
            if reason:
                self._end(job, reason)
                break
            if self._pipe.readable() or self._clock() >= until:
                break
        self._listen()

    def _decode(self, jobs: list[Generation]) -> None:
        """One token of each of these answers, in one step of the decoder."""
        if not jobs:
            return
        pending = {job.slot.number: job.pending for job in jobs if job.pending is not None}
        if pending:
            for slot, logits in self._decoder.step(pending).items():
                self._jobs[slot].take(logits)
        for job in jobs:
            reason = job.choose()
            if reason:
                self._end(job, reason)
        self._listen()

    # --- prompts ------------------------------------------------------------------------------
    def _listen(self, wait: bool = False) -> None:
        """Read the pipe, and end what was cancelled or is out of time."""
        message = self._pipe.receive(wait)
        while message is not None:
            if isinstance(message, Start):
                self._waiting.append(message)
            elif isinstance(message, Cancel):
                self._stop(message.job, "cancelled")
            message = self._pipe.receive(wait=False)
        now = self._clock()
        alone = [self._alone] if self._alone else []
        for start in [*alone, *(job.start for job in self._jobs.values()), *self._waiting]:
            if now >= start.deadline:
                self._stop(start.job, "deadline")
        if (self._jobs or self._alone) and now - self._said_at >= HEARTBEAT_SECONDS:
            self._send(Heartbeat())

    def _send(self, message: FromWorker) -> None:
        self._said_at = self._clock()
        self._pipe.send(message)

    def _announce(self, tokens: int) -> None:
        """Tell of a computation that is longer than a slice, and cannot be interrupted."""
        if tokens > 2 * SLICE_TOKENS:
            self._send(Heartbeat(quiet_seconds(tokens)))

    def _stop(self, name: str, reason: str) -> None:
        if self._alone is not None and self._alone.job == name:
            self._stopped = reason
        for job in [job for job in self._jobs.values() if job.start.job == name]:
            self._end(job, reason)
        for start in [start for start in self._waiting if start.job == name]:
            self._waiting.remove(start)
            timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
            self._send(Done(start.job, "", reason, Usage(0, 0, 0), timings))

    def _end(self, job: Generation, reason: str) -> None:
        del self._jobs[job.slot.number]
        job.slot.used_at = self._clock()
        self._idle.append(job.slot)
        self._send(job.done(reason))

    def _may_begin(self, start: Start) -> bool:
        """Whether there is room; a beam search waits until nothing else runs."""
        return not self._jobs if start.sampling.num_beams > 1 else bool(self._idle)

    def _begin(self, start: Start) -> None:
        try:
            prompt, limit = admit(
                start, self._tokenizer, self._decoder.limits, self._beams, self._max_beams
            )
        except RefusedError as error:
            self._send(Failed(start.job, error.code, error.what, error.param))
            return
        if start.sampling.num_beams > 1:
            self._search(start, prompt, limit)
        else:
            self._place(start, prompt, limit)

    def _search(self, start: Start, prompt: list[int], limit: int) -> None:
        assert self._beams is not None
        self._alone, self._stopped = start, ""
        self._announce(len(prompt) * start.sampling.num_beams)

        def stopped() -> str:
            self._listen()
            return self._stopped

        done = beam.run(start, prompt, limit, self._beams, self._tokenizer, stopped, self._clock)
        self._alone = None
        self._send(done)

    def _place(self, start: Start, prompt: list[int], limit: int) -> None:
        """Put a prompt into the slot that has most of it."""
        limits = self._decoder.limits
        long_rope = limits.rope_threshold is not None and len(prompt) > limits.rope_threshold
        leading = takewhile(lambda message: message[0] in SYSTEM_ROLES, start.messages)
        system = partial(self._system, tuple(leading))
        wanted = Wanted(prompt, start.requester, system, long_rope)
        slot, kept = choose_slot(
            self._idle, wanted, self._clock(), limits.min_slice, limits.can_truncate
        )
        self._idle.remove(slot)
        slot.requester, slot.system, slot.long_rope = start.requester, system, long_rope

        def send(text: str) -> None:
            self._send(Delta(start.job, text))

        self._jobs[slot.number] = Generation(
            start,
            self._decoder,
            slot,
            prompt,
            kept,
            Answer(send, start.stops, self._tokenizer, self._flush_seconds),
            self._sampler(start, prompt),
            limit,
            self._clock,
        )

    def _sampler(self, start: Start, prompt: list[int]) -> Sampler | None:
        custom = self._processors(start.sampling, prompt) if self._processors else ()
        if start.sampling.plain_greedy and not custom and not self._decoder.limits.batched:
            return None
        return Sampler(start.sampling, prompt, custom)

    def _system(self, system: tuple[tuple[str, str], ...]) -> list[int]:
        """The tokens that come from leading system messages alone, whatever follows them.

        Two prompts that differ from the first letter after them show where they end: a token over
        that border is in one of the two only.
        """
        known = self._systems.pop(system, None)
        if known is None:
            try:
                probes = [self._tokenizer.encode_chat([*system, ("user", x)]) for x in "aZ"]
                known = probes[0][: common_length(*probes)]
            except Exception:  # a template that wants more than this shares nothing
                known = []
        self._systems[system] = known
        if len(self._systems) > MAX_SYSTEM_MESSAGES:
            self._systems.popitem(last=False)
        return known


def main(
    descriptor: int,
    model_dir: Path,
    max_length: int,
    *,
    threads: int,
    slots: int,
    release: str,
    tuning: Path,
    tune_seconds: float,
    max_beams: int,
    batching: bool,
    logits_processors: str,
) -> None:
    """Load the model, answer one token to warm it up, then serve the pipe.

    Args:
        descriptor: of the parent's socketpair.
        model_dir: the model's folder.
        max_length: tokens of a slot.
        threads: of the runtime; 0 takes what is fastest on this device.
        slots: prompts side by side; 0 takes what the memory allows.
        release: its digest.
        tuning: where measured settings are kept.
        tune_seconds: how long to measure at most.
        max_beams: of a beam search; 1 refuses it.
        batching: decode all slots in one step, where the graph allows it.
        logits_processors: custom scoring, as in agent.toml.

    Raises:
        EdgekitError: the model or the custom scoring cannot be loaded.
    """
    processors = load_factory(logits_processors)  # before what takes long
    pipe: Pipe[ToWorker] = Pipe(socket.socket(fileno=descriptor), ToWorker)
    measured = not threads
    options = Options(threads, spinning=False)
    if not threads:
        options, measured = tuned(model_dir, release, tuning, min(tune_seconds, TUNE_SECONDS))
    began = time.monotonic()
    try:
        decoder, tokenizer, beams = open_model(model_dir, max_length, options, slots, batching)
    except Exception as error:  # of native libraries: whatever they throw
        raise EdgekitError("the model cannot be loaded", str(error)) from error
    loaded = time.monotonic()
    decoder.extend(0, tokenizer.encode_chat([("user", "Hello")]))
    decoder.greedy(0)
    decoder.truncate(0, 0)
    warm = time.monotonic()
    served = beams_served(beams, max_beams, max_length)  # the slots have their memory by now
    if served < max_beams:
        log.warning(
            "max_beams %d is lowered to %d: %s",
            *(max_beams, served),
            "the memory has no room for more" if beams else "batching has no beam search",
        )
    pipe.send(
        Ready(
            (loaded - began) * 1e3,
            (warm - loaded) * 1e3,
            decoder.limits.slots,
            options.threads,
            bool(options.spinning),
            measured,
            served,
        )
    )
    Worker(
        pipe,
        decoder,
        tokenizer,
        time.monotonic,
        processors,
        beams=beams,
        max_beams=served,
        flush_seconds=FLUSH_SECONDS if options.threads < cpus() else BUSY_FLUSH_SECONDS,
    ).run()
