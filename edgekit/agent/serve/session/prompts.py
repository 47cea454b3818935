"""The prompts of one session and how they are answered; shared by its intake and its worker side.

Pure: methods change the prompts and return what is to be said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

from edgekit.agent.serve.pipe import Cancel
from edgekit.agent.serve.session import replies
from edgekit.agent.serve.session.events import Effect, ToWorker
from edgekit.agent.serve.session.fair import FairQueue
from edgekit.agent.serve.session.ledger import Ledger
from edgekit.agent.serve.session.metrics import CANCELLED, Metrics
from edgekit.agent.serve.session.prompt import Outcome, Prompt
from edgekit.agent.serve.session.states import PromptStep, State
from edgekit.core import chat, wire

OUTBOX_BATCH = 100  # outcomes that are sent at once when a connection came back
LATELY_SECONDS = 60.0  # in which who reads an answer asks again: a slot is kept for so long
RUN_SHARE = 0.3  # of the newest prompt in the mean of how long prompts run


@dataclass(slots=True)
class Prompts:
    """Who waits, who runs, who has ended.

    Args:
        model: the served model's name, for answers.
        epoch: Unix seconds minus monotonic seconds.
        metrics: where outcomes are counted.
    """

    model: str
    epoch: float
    metrics: Metrics
    ledger: Ledger = field(default_factory=Ledger)
    queue: FairQueue = field(default_factory=FairQueue)
    running: dict[str, Prompt] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)  # forgotten, but the worker is at it still
    slots: int = 0  # of the worker; none while the model loads
    connected: bool = False  # the broker has subscribed us
    storing: bool = True  # the journal can be written; what is not in it is not said
    ignored: int = 0  # messages and prompts that got no answer
    run_ms: float | None = None  # mean of recent prompts, from start to end

    # --- saying -------------------------------------------------------------------------------
    def accepted(self, prompt: Prompt, now: float) -> list[Effect]:
        """Say that a prompt was taken, unless its requester wants the final alone."""
        if prompt.reply.final_only:
            return []
        position, eta_ms = self.position(prompt, now), None
        if self.run_ms is not None and self.slots:
            eta_ms = round(self.run_ms * position / self.slots)
        return [replies.accepted(prompt, position, eta_ms, now)]

    def position(self, prompt: Prompt, now: float) -> int:
        """How many prompts must end before this one starts, as far as can be said."""
        if prompt.key in self.running or self._next(self.queue, now) is prompt:
            return 0
        held = self._leaving_room(self.queue, now)
        overtaken = () if prompt.requester in held else held
        ahead = takewhile(lambda other: other is not prompt, self.queue)
        before = sum(other.requester not in overtaken for other in ahead)
        return before + bool(self.slots)  # a slot that is free now is not for it

    def send(self, prompt: Prompt, now: float) -> list[Effect]:
        """Send the outcome of a prompt; while there is no connection or no journal it waits."""
        if not self.connected or not self.storing:
            return []
        self.ledger.published(prompt)
        return [replies.outcome(prompt, prompt.reply, int(prompt.deadline - now))]

    def send_outbox(self, now: float) -> list[Effect]:
        """Send outcomes that nobody has acknowledged, the oldest first."""
        due = self.ledger.due(now)[:OUTBOX_BATCH]
        return [effect for prompt in due for effect in self.send(prompt, now)]

    # --- ending -------------------------------------------------------------------------------
    def end(self, prompt: Prompt, step: PromptStep, outcome: Outcome, now: float) -> list[Effect]:
        """Give a prompt its one outcome."""
        self.running.pop(prompt.key, None)
        prompt.end(step, outcome, now)
        self._count(prompt, outcome, now)
        self.ledger.touch(prompt)
        return self.send(prompt, now)

    def _count(self, prompt: Prompt, outcome: Outcome, now: float) -> None:
        error = CANCELLED if prompt.state == State.CANCELLED else outcome.code
        self.metrics.ended(now - prompt.queued_at, error)

    def fail(
        self, prompt: Prompt, step: PromptStep, code: str, text: str, now: float
    ) -> list[Effect]:
        """End it with an error."""
        return self.end(prompt, step, replies.error_outcome(wire.ProtocolError(code, text)), now)

    def finish(
        self,
        prompt: Prompt,
        text: str,
        reason: chat.FinishReason,
        usage: chat.Usage,
        timings: chat.Timings | None,
        now: float,
    ) -> list[Effect]:
        """End it with an answer, which may be cancelled."""
        payload = chat.completion(
            prompt_id=prompt.reply.prompt_id,
            model=self.model,
            created=int(self.epoch + now),
            text=text,
            finish_reason=reason,
            usage=usage,
            timings=timings,
            deltas=prompt.seq,
        )
        if prompt.key in self.running and reason != "cancelled":
            took = (now - prompt.started_at) * 1e3
            mean = took if self.run_ms is None else self.run_ms
            self.run_ms = mean + RUN_SHARE * (took - mean)
        cancelled = reason == "cancelled"
        step, status = (PromptStep.CANCELLED, 499) if cancelled else (PromptStep.FINISHED, 200)
        return self.end(prompt, step, Outcome("final", "", status, payload), now)

    def cancelled(self, prompt: Prompt, now: float) -> list[Effect]:
        """End one that has no text."""
        return self.finish(prompt, "", "cancelled", chat.Usage(0, 0, 0), None, now)

    def expire_waiting(self, now: float) -> list[Effect]:
        """A prompt whose time ran out before it started gets no answer: nobody waits for it.

        The error is stored, for whoever asks by `query`. Of one that ran before something died
        deltas may have gone out: its requester is told.
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
        return effects

    def abandon(self, prompt: Prompt) -> list[Effect]:
        """Forget a prompt that nobody waits for: no minutes of computing for nobody."""
        self.ledger.drop(prompt)
        if self.running.pop(prompt.key, None) is not None:
            self.stopping.add(prompt.key)
            return [ToWorker(Cancel(prompt.key))]
        if prompt.outcome is None:
            self.queue.remove(prompt)
        return []

    # --- starting -----------------------------------------------------------------------------
    def can_start(self, prompt: Prompt, now: float) -> bool:
        """Whether a prompt that does not wait yet would be the next to start, and at once."""
        return self._next(self.queue.with_another(prompt), now) is prompt

    def next_to_start(self, now: float) -> Prompt | None:
        """The next prompt, if it can run now; it has left the queue then."""
        prompt = self._next(self.queue, now)
        if prompt is not None:
            self.queue.take(prompt)
        return prompt

    def _next(self, queue: FairQueue, now: float) -> Prompt | None:
        prompt = queue.first(self._leaving_room(queue, now))
        if prompt is None or len(self.running) + len(self.stopping) >= self.slots:
            return None
        # A prompt that was running when something died runs alone, so that it is known who did it.
        alone = prompt.starts or any(other.starts > 1 for other in self.running.values())
        if prompt.key in self.stopping or (alone and self.running):
            return None
        return prompt

    def _leaving_room(self, queue: FairQueue, now: float) -> set[str]:
        """Who runs as many prompts as one requester may while others ask: all slots but one."""
        running = Counter(prompt.requester for prompt in self.running.values())
        most = {name for name, count in running.items() if count >= self.slots - 1}
        if self.slots < 2 or not most:
            return set()
        lately = self.ledger.requesters_since(now - LATELY_SECONDS)
        return most if len(queue.requesters | running.keys() | lately) > 1 else set()

    def ended(self, key: str) -> Prompt | None:
        """The running prompt of which the worker says that it ended."""
        self.stopping.discard(key)
        return self.running.get(key)
