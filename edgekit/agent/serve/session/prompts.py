"""The prompts of one session: which start, how they end, which replies are sent.

`Intake` and `Dispatch` share them. Pure: methods change the prompts and return effects.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile
from typing import cast

from edgekit.agent.serve.pipe import Cancel, Done
from edgekit.agent.serve.session import replies
from edgekit.agent.serve.session.events import Effect, ToWorker, Warn
from edgekit.agent.serve.session.fair import FairQueue
from edgekit.agent.serve.session.ledger import Ledger
from edgekit.agent.serve.session.metrics import CANCELLED, Metrics
from edgekit.agent.serve.session.prompt import Outcome, Prompt
from edgekit.agent.serve.session.states import PromptStep, State
from edgekit.core.chat.completion import FinishReason, Timings, Usage, completion
from edgekit.core.protocol import wire
from edgekit.core.rules.message import Origin
from edgekit.mqtt.terms import NO_PACKET_LIMIT

OUTBOX_BATCH = 100  # outcomes sent at once, for example after a reconnect
LATELY_SECONDS = 60.0  # a reader asks again within this time: a slot is kept free for so long
RUN_SHARE = 0.3  # weight of the newest prompt in the moving mean of run times


@dataclass(slots=True)
class Prompts:
    """The prompts that wait, run or have ended.

    Args:
        model: the name of the served model, for answers.
        epoch: Unix seconds minus monotonic seconds.
        metrics: counts the outcomes.
    """

    model: str
    epoch: float
    metrics: Metrics
    ledger: Ledger = field(default_factory=Ledger)
    queue: FairQueue = field(default_factory=FairQueue)
    running: dict[str, Prompt] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)  # abandoned, but the worker still runs them
    slots: int = 0  # of the worker; 0 while the model loads
    connected: bool = False  # the broker has confirmed the subscriptions
    storing: bool = True  # the journal can be written; only a recorded outcome is sent
    ignored: int = 0  # messages and prompts that got no answer
    max_packet_bytes: int = NO_PACKET_LIMIT  # of the broker
    too_long_said: bool = False  # the log has that an answer is larger
    unanswered_said: set[tuple[str, str]] = field(default_factory=set)  # rule and code, in the log
    run_ms: float | None = None  # mean of recent prompts, from start to end

    # --- sending ------------------------------------------------------------------------------
    def accepted(self, prompt: Prompt, now: float) -> list[Effect]:
        """Send `accepted` for a prompt, unless its requester wants only the final."""
        if prompt.reply.final_only:
            return []
        position, eta_ms = self.position(prompt, now), None
        if self.run_ms is not None and self.slots:
            eta_ms = round(self.run_ms * position / self.slots)
        return [replies.accepted(prompt, position, eta_ms, now)]

    def position(self, prompt: Prompt, now: float) -> int:
        """Estimate how many prompts must end before this one starts."""
        if prompt.key in self.running or self._next(self.queue, now) is prompt:
            return 0
        held = self._leaving_room(self.queue, now)
        overtaken = () if prompt.requester in held else held
        ahead = takewhile(lambda other: other is not prompt, self.queue)
        before = sum(other.requester not in overtaken for other in ahead)
        return before + bool(self.slots)  # it waits, therefore no slot that is free now is for it

    def send(self, prompt: Prompt, now: float) -> list[Effect]:
        """Send the outcome of a prompt. Without a connection or a journal it waits."""
        if not self.connected or not self.storing:
            return []
        self.ledger.published(prompt)
        return self.repeat(prompt, prompt.reply, int(prompt.deadline - now))

    def repeat(self, prompt: Prompt, to: wire.ReplyTo, expiry_seconds: int) -> list[Effect]:
        """Send the outcome of a prompt to an address, and leave its delivery as it is."""
        limit = self.max_packet_bytes
        reply = replies.outcome(prompt, to, expiry_seconds, limit)
        if prompt.outcome is None or reply.kind == prompt.outcome.kind or self.too_long_said:
            return [reply]
        self.too_long_said = True
        text = f"an answer is larger than the broker's largest packet of {limit} bytes"
        return [Warn(f"{text}: its requester gets the error payload_too_large"), reply]

    def send_outbox(self, now: float) -> list[Effect]:
        """Send outcomes that the broker has not acknowledged, the oldest first."""
        due = self.ledger.due(now)[:OUTBOX_BATCH]
        return [effect for prompt in due for effect in self.send(prompt, now)]

    # --- ending -------------------------------------------------------------------------------
    def end(self, prompt: Prompt, step: PromptStep, outcome: Outcome, now: float) -> list[Effect]:
        """Give a prompt its one outcome."""
        self.running.pop(prompt.key, None)
        prompt.end(step, outcome, now)
        self._count(prompt, outcome, now)
        self.ledger.touch(prompt)
        if prompt.origin is not None and outcome.kind == "error":
            self.ledger.withhold(prompt)  # its topic has answers alone
            return self.say_unanswered(prompt.origin, wire.ProtocolError.decode(outcome.payload))
        return self.send(prompt, now)

    def say_unanswered(self, origin: Origin, error: wire.ProtocolError) -> list[Effect]:
        """Say in the log why a rule's prompt has no answer: once for each rule and code."""
        if (origin.rule, error.code) in self.unanswered_said:
            return []
        self.unanswered_said.add((origin.rule, error.code))
        return [Warn(f"rule {origin.rule} has no answer to a message on {origin.topic}: {error}")]

    def _count(self, prompt: Prompt, outcome: Outcome, now: float) -> None:
        if prompt.origin is not None and outcome.kind == "error":
            self.metrics.rules[prompt.origin.rule, outcome.code] += 1
        error = CANCELLED if prompt.state == State.CANCELLED else outcome.code
        self.metrics.ended(now - prompt.queued_at, error)

    def fail(
        self, prompt: Prompt, step: PromptStep, code: str, text: str, now: float
    ) -> list[Effect]:
        """End a prompt with an error."""
        return self.end(prompt, step, replies.error_outcome(wire.ProtocolError(code, text)), now)

    def finish(
        self, prompt: Prompt, done: Done, timings: Timings | None, now: float
    ) -> list[Effect]:
        """End a prompt with an answer, which may be a cancelled one."""
        reason = cast(FinishReason, done.finish_reason)
        payload = completion(
            prompt_id=prompt.reply.prompt_id,
            model=self.model,
            created=int(self.epoch + now),
            text=done.text,
            finish_reason=reason,
            usage=done.usage,
            timings=timings,
            deltas=prompt.seq,
            reasoning=done.reasoning,
            calls=done.calls,
            logprobs=done.logprobs,
        )
        if prompt.key in self.running and reason != "cancelled":
            took = (now - prompt.started_at) * 1e3
            mean = took if self.run_ms is None else self.run_ms
            self.run_ms = mean + RUN_SHARE * (took - mean)
        cancelled = reason == "cancelled"
        step, status = (PromptStep.CANCELLED, 499) if cancelled else (PromptStep.FINISHED, 200)
        return self.end(prompt, step, Outcome("final", "", status, payload), now)

    def cancelled(self, prompt: Prompt, now: float) -> list[Effect]:
        """End a cancelled prompt that has no text."""
        nothing = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
        done = Done(prompt.key, "", "cancelled", Usage(0, 0, 0), nothing)
        return self.finish(prompt, done, None, now)

    def expire_waiting(self, now: float) -> list[Effect]:
        """End prompts whose deadline passed while they waited.

        One that never started gets no answer, as its requester has stopped waiting; the error is
        stored for a `query`. One that ran before the worker or the agent died may have sent
        deltas, and its requester gets the error.
        """
        effects: list[Effect] = []
        for prompt in [prompt for prompt in self.queue if now >= prompt.deadline]:
            self.queue.remove(prompt)
            if prompt.starts:
                text = "the message's expiry ran out"
                effects += self.fail(prompt, PromptStep.EXPIRED, "deadline_exceeded", text, now)
                continue
            error = wire.ProtocolError("deadline_exceeded", "it expired before it could start")
            outcome = replies.error_outcome(error)
            prompt.end(PromptStep.EXPIRED, outcome, now)
            self._count(prompt, outcome, now)
            self.ledger.withhold(prompt)
            self.ignored += 1
            if prompt.origin is not None:
                effects += self.say_unanswered(prompt.origin, error)
        return effects

    def abandon(self, prompt: Prompt) -> list[Effect]:
        """Forget a prompt that no requester waits for, and stop computing its answer."""
        self.ledger.drop(prompt)
        if self.running.pop(prompt.key, None) is not None:
            self.stopping.add(prompt.key)
            return [ToWorker(Cancel(prompt.key))]
        if prompt.outcome is None:
            self.queue.remove(prompt)
        return []

    # --- starting -----------------------------------------------------------------------------
    def can_start(self, prompt: Prompt, now: float) -> bool:
        """Whether a prompt that is not queued yet would start at once."""
        return self._next(self.queue.with_another(prompt), now) is prompt

    def next_to_start(self, now: float) -> Prompt | None:
        """Take the next prompt from the queue, if it can run now."""
        prompt = self._next(self.queue, now)
        if prompt is not None:
            self.queue.take(prompt)
        return prompt

    def _next(self, queue: FairQueue, now: float) -> Prompt | None:
        prompt = queue.first(self._leaving_room(queue, now))
        if prompt is None or len(self.running) + len(self.stopping) >= self.slots:
            return None
        # A prompt that was running when the worker or the agent died runs alone: a second death
        # then shows which prompt causes it.
        alone = prompt.starts or any(other.starts > 1 for other in self.running.values())
        if prompt.key in self.stopping or (alone and self.running):
            return None
        return prompt

    def _leaving_room(self, queue: FairQueue, now: float) -> set[str]:
        """Return the requesters that must leave the last slot to others.

        While several requesters ask, one of them may use all slots but one.
        """
        running = Counter(prompt.requester for prompt in self.running.values())
        most = {name for name, count in running.items() if count >= self.slots - 1}
        if self.slots < 2 or not most:
            return set()
        lately = self.ledger.requesters_since(now - LATELY_SECONDS)
        return most if len(queue.requesters | running.keys() | lately) > 1 else set()

    def ended(self, key: str) -> Prompt | None:
        """Return the running prompt that the worker reports as ended; None for an abandoned one."""
        self.stopping.discard(key)
        return self.running.get(key)
