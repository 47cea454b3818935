"""The model process: runs prompts side by side in the decoder's slots and streams the answers.

The model has its own process because the runtime holds the GIL for a whole prefill slice, and
because a native crash or an out-of-memory kill here must not cost the MQTT connection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Set

import msgspec

from edgekit.agent.serve.pipe import (
    HEARTBEAT_SECONDS,
    SLICE_TOKENS,
    Done,
    FromWorker,
    Generated,
    Heartbeat,
    Pipe,
    PipeClosedError,
    Refused,
    Start,
    ToWorker,
    Walk,
    WalkBroken,
    quiet_seconds,
)
from edgekit.agent.serve.worker import beam
from edgekit.agent.serve.worker.admission import Admitted, RefusedError, admit
from edgekit.agent.serve.worker.answer.answer import FLUSH_SECONDS, Answer
from edgekit.agent.serve.worker.answer.calls import reader_of
from edgekit.agent.serve.worker.answer.logprobs import logprobs_of
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece
from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.decoder import BeamSearch, Decoder
from edgekit.agent.serve.worker.generation import Generation
from edgekit.agent.serve.worker.grammar.grammars import Grammars
from edgekit.agent.serve.worker.grammar.guide import Guide
from edgekit.agent.serve.worker.pictures.sight import Eyes
from edgekit.agent.serve.worker.prefix import Slot, Systems, Wanted, choose_slot
from edgekit.agent.serve.worker.processors import ProcessorFactory
from edgekit.agent.serve.worker.sampling import Sampler
from edgekit.agent.serve.worker.scheduler import next_work
from edgekit.agent.serve.worker.shares import Shares
from edgekit.agent.serve.worker.walking import walk_idle
from edgekit.core.chat.completion import Timings, Usage
from edgekit.core.chat.thinking import marks_in

VIEW_TOKENS = 4 * SLICE_TOKENS  # a view costs no more: Phi-3.5-vision's about as much as one slice

Clock = Callable[[], float]


class Worker:
    """Runs prompts in the slots of a decoder; prompts without a slot wait.

    Args:
        pipe: the pipe to the parent.
        decoder: the decoder, with at least one slot.
        tokenizer: the same model's tokenizer.
        clock: monotonic seconds, on the parent's clock.
        processors: makes custom scoring for each prompt.
        beams: the model's beam search; None if it has none.
        max_beams: the most beams that a prompt may ask for; 1 refuses beam search.
        flush_seconds: seconds for which deltas are coalesced.
        pause_seconds: seconds for which the model rests after an answer's first delta.
        eyes: reads pictures; None if the model takes none.
        grammars: compiles what answers must look like.
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
        pause_seconds: float = 0.0,
        eyes: Eyes | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self._pipe = pipe
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._clock = clock
        self._processors = processors
        self._beams = beams
        self._max_beams = max_beams if beams is not None else 1
        self._flush_seconds = flush_seconds
        self._pause_seconds = pause_seconds
        self._eyes = eyes
        self._marks = marks_in(tokenizer.template_texts)
        self._alone: Start | None = None  # the beam search that runs
        self._stopped = ""  # the reason to stop it; empty to go on
        self._idle = [Slot(number) for number in range(decoder.limits.slots)]
        self._running: dict[int, Generation] = {}  # by slot
        self._waiting: deque[Start] = deque()
        self._walks: deque[Walk] = deque()  # for when nothing else is to be done
        self._for_walks = (decoder, tokenizer.eos_token_ids, pipe.readable, clock)
        self._shares = Shares()
        self._said_at = 0.0
        self._quanta = 0
        self._systems = Systems(tokenizer.encode_chat)
        self._grammars = grammars or Grammars()

    def run(self) -> None:
        """Serve until the parent closes the pipe."""
        try:
            while True:
                if not self._running:
                    self._shares.rest()
                    if self._walks and not self._waiting:
                        walk = self._walks.popleft()
                        self._send(walk_idle(walk, self._idle, *self._for_walks))
                    if self._waiting and self._next_start() is None:  # they wait for grammars
                        self._send(Heartbeat())
                        self._grammars.wait(self._pipe.sock, HEARTBEAT_SECONDS)
                    self._listen(wait=not self._waiting and not self._walks)
                    self._said_at = self._clock()  # while idle it owed no heartbeat
                start = self._next_start()
                if start is not None:
                    self._begin(start)
                self._quantum()
        except PipeClosedError:
            return

    def _quantum(self) -> None:
        """Run one quantum: one slice of a prefill and one token of answers, if there are any.

        If nothing but one answer runs, compute its tokens until something else happens.
        """
        if not self._running:  # the worker refused every prompt
            return
        loads = [generation.load for generation in self._running.values()]
        limits = self._decoder.limits
        here = {load.requester for load in loads}
        whose = self._shares.next(here, {start.requester for start in self._waiting})
        work = next_work(loads, limits.min_slice, whose, limits.batched)
        self._quanta += 1
        feeding = frozenset(load.requester for load in loads if load.remaining)
        if work.feed is not None:
            self._feed(*work.feed)
        steps = [self._running[slot] for slot in work.step if slot in self._running]
        due = bool(self._waiting and self._idle)  # a requester that owes time begins later
        if work.feed is None and len(self._running) == 1 and steps and not due:
            self._decode_alone(steps[0])
        elif limits.batched:
            self._decode(steps, feeding)
        else:
            for generation in steps:
                if generation.slot.number in self._running:
                    self._decode([generation])
                if self._next_start() is not None:
                    break  # a new prompt does not wait for the rest of the quantum

    def _feed(self, slot: int, count: int) -> None:
        """Compute one slice of a prefill; right after the last slice, also the first token.

        Where the slice needs a picture's features, one view of the picture is computed instead.
        """
        generation, began = self._running[slot], self._clock()
        first = not generation.begun  # else a grammar forces these tokens of the answer
        generation.quantum = self._quanta
        unseen = generation.unseen(count)
        if unseen is not None:
            self._announce(VIEW_TOKENS)
            generation.look(unseen)
        else:
            self._announce(count)
            generation.feed(count)
        now = self._clock()
        self._shares.charge(generation.start.requester, now - began, now, feeding=first)
        self._listen()
        if slot in self._running and not generation.load.remaining:
            self._decode([generation])
            if first and self._pause_seconds:
                time.sleep(self._pause_seconds)

    def _decode_alone(self, generation: Generation) -> None:
        """Compute tokens of the only running answer until there is anything else to do.

        This is a separate loop because the model fills the CPU's caches with each token, and then
        the work of `_quantum` took 200 us, 2 % of a token of SmolLM2.
        """
        until = min(start.deadline for start in (generation.start, *self._waiting))
        began = self._clock()
        until = min(until, began + HEARTBEAT_SECONDS)  # the answer may hold back all its text
        while generation.decodes:
            reason = generation.advance()
            if reason:
                self._end(generation, reason)
                break
            if self._pipe.readable() or self._clock() >= until:
                break
        now = self._clock()
        self._shares.charge(generation.start.requester, now - began, now)
        self._listen()

    def _decode(self, generations: list[Generation], feeding: Set[str] = frozenset()) -> None:
        """Compute one token of each of these answers, in one step of the decoder.

        Requesters in `feeding` pay for their slices and get their tokens free, with the others.
        """
        if not generations:
            return
        began = self._clock()
        pending = {
            each.slot.number: each.pending for each in generations if each.pending is not None
        }
        if pending:
            for slot, logits in self._decoder.step(pending).items():
                self._running[slot].take(logits)
        for generation in generations:
            generation.quantum = self._quanta
            reason = generation.choose()
            if reason:
                self._end(generation, reason)
        now = self._clock()
        paying = {generation.start.requester for generation in generations} - feeding
        for name in paying:
            self._shares.charge(name, (now - began) / len(paying), now)
        self._listen()

    # --- prompts ------------------------------------------------------------------------------
    def _listen(self, wait: bool = False) -> None:
        """Read the pipe, and end prompts that were cancelled or passed their deadline."""
        message = self._pipe.receive(wait)
        while message is not None:
            if isinstance(message, Start):
                self._waiting.append(message)
                self._grammars.begin(message.constraint)
            elif isinstance(message, Walk):
                self._walks.append(message)
            else:
                self._stop(message.key, "cancelled")
            message = self._pipe.receive(wait=False)
        if self._running or self._waiting or self._alone:
            for walk in tuple(self._walks):  # the parent asks again when it is idle again
                self._break(walk)
        now = self._clock()
        alone = [self._alone] if self._alone else []
        for start in [
            *alone,
            *(each.start for each in self._running.values()),
            *self._waiting,
        ]:
            if now >= start.deadline:
                self._stop(start.key, "deadline")
        if (self._running or self._alone) and now - self._said_at >= HEARTBEAT_SECONDS:
            self._send(Heartbeat())

    def _send(self, message: FromWorker) -> None:
        self._said_at = self._clock()
        self._pipe.send(message)

    def _announce(self, tokens: int) -> None:
        """Announce a long computation that cannot be interrupted, so the parent keeps waiting."""
        if tokens > 2 * SLICE_TOKENS:
            self._send(Heartbeat(quiet_seconds(tokens)))

    def _stop(self, name: str, reason: str) -> None:
        if self._alone is not None and self._alone.key == name:
            self._stopped = reason
        for walk in [walk for walk in self._walks if walk.key == name]:
            self._break(walk)
        for generation in [each for each in self._running.values() if each.start.key == name]:
            self._end(generation, reason)
        for start in [start for start in self._waiting if start.key == name]:
            self._waiting.remove(start)
            timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
            self._send(Done(start.key, "", reason, Usage(0, 0, 0), timings))

    def _end(self, generation: Generation, reason: str) -> None:
        del self._running[generation.slot.number]
        generation.slot.used_at = self._clock()
        self._idle.append(generation.slot)
        self._send(generation.refusal or generation.done(reason))
        if generation.is_sample and reason in ("stop", "length"):
            self._send(generation.sample)

    def _break(self, walk: Walk) -> None:
        self._walks.remove(walk)
        self._send(WalkBroken(walk.key))

    def _next_start(self) -> Start | None:
        """Return the waiting prompt that may begin now, if there is one.

        Among requesters that owe the others no time, the one that used least comes first. A prompt
        needs an idle slot; a beam search begins only while nothing else runs.
        """
        due = [
            start
            for start in self._waiting
            if not self._shares.owes(start.requester)
            and not self._grammars.compiles(start.constraint)
        ]
        if not due:
            return None
        start = min(due, key=lambda start: self._shares.used(start.requester))
        free = not self._running if start.sampling.num_beams > 1 else bool(self._idle)
        return start if free else None

    def _begin(self, start: Start) -> None:
        self._waiting.remove(start)
        began = self._clock()
        try:
            prompt = admit(
                *(start, self._tokenizer, self._decoder.limits),
                *(self._beams, self._max_beams),
                *(self._eyes, self._marks),
            )
            guide = self._grammars.guide(start.constraint)
        except RefusedError as error:
            self._send(Refused(start.key, error.code, error.what, error.param))
            return
        finally:
            now = self._clock()
            self._shares.charge(start.requester, now - began, now, feeding=True)
        if start.sampling.num_beams > 1:
            self._search(start, prompt.items, prompt.limit)
        else:
            self._place(start, prompt, guide)

    def _search(self, start: Start, prompt: list[int], limit: int) -> None:
        assert self._beams is not None
        self._alone, self._stopped = start, ""
        self._announce(len(prompt) * start.sampling.num_beams)

        def stopped() -> str:
            self._listen()
            return self._stopped

        began = self._clock()
        done = beam.run(
            *(start, prompt, limit, self._beams, self._tokenizer, stopped, self._clock),
            reader_of(start, prompt, self._tokenizer, self._marks),
        )
        now = self._clock()
        self._shares.charge(start.requester, now - began, now)
        self._alone = None
        self._send(done)

    def _place(self, start: Start, prompt: Admitted, guide: Guide | None) -> None:
        """Put a prompt into the idle slot that costs least."""
        limits, count = self._decoder.limits, len(prompt.items)
        long_rope = limits.rope_threshold is not None and count > limits.rope_threshold
        system = self._systems.of(start.messages, start.tools, start.options)
        wanted = Wanted(prompt.items, start.requester, system, long_rope)
        slot, kept = choose_slot(
            self._idle, wanted, self._clock(), limits.min_slice, limits.can_truncate
        )
        self._idle.remove(slot)
        slot.requester, slot.system, slot.long_rope = start.requester, system, long_rope

        def send(piece: AnswerPiece) -> None:
            self._send(Generated(start.key, *msgspec.structs.astuple(piece)))

        self._running[slot.number] = generation = Generation(
            start,
            self._decoder,
            slot,
            prompt.items,
            kept,
            Answer(
                *(send, start.stops, self._tokenizer, self._flush_seconds),
                reader=reader_of(start, prompt.tokens, self._tokenizer, self._marks),
                logprobs=start.top_logprobs is not None,
            ),
            self._sampler(start, prompt.tokens),
            prompt.limit,
            self._clock,
            self._quanta,
            prompt.pictures,
            reader=logprobs_of(start.top_logprobs, self._tokenizer.bytes_of),
            guide=guide,
        )
        if reason := generation.open():
            self._end(generation, reason)

    def _sampler(self, start: Start, prompt: list[int]) -> Sampler | None:
        custom = self._processors(start.sampling, prompt) if self._processors else ()
        plain = start.sampling.plain_greedy and not custom and start.top_logprobs is None
        if plain and start.constraint is None and not self._decoder.limits.batched:
            return None
        return Sampler(start.sampling, prompt, custom)
