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
from edgekit.agent.serve.session.prompt import Job, Outcome
from edgekit.agent.serve.session.states import State, Step
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
    running: dict[str, Job] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)  # forgotten, but the worker is at it still
    slots: int = 0  # of the worker; none while the model loads
    connected: bool = False  # the broker has subscribed us
    storing: bool = True  # the journal can be written; what is not in it is not said
    ignored: int = 0  # messages and prompts that got no answer
    run_ms: float | None = None  # mean of recent prompts, from start to end

    # --- saying -------------------------------------------------------------------------------
    def accepted(self, job: Job, now: float) -> list[Effect]:
        """Say that a prompt was taken, unless its requester wants the final alone."""
        if job.reply.final_only:
            return []
        position, eta_ms = self.position(job, now), None
        if self.run_ms is not None and self.slots:
            eta_ms = round(self.run_ms * position / self.slots)
        return [replies.accepted(job, position, eta_ms, now)]

    def position(self, job: Job, now: float) -> int:
        """How many prompts must end before this one starts, as far as can be said."""
        if job.key in self.running or self._next(self.queue, now) is job:
            return 0
        held = self._leaving_room(self.queue, now)
        overtaken = () if job.requester in held else held
        ahead = takewhile(lambda other: other is not job, self.queue)
        before = sum(other.requester not in overtaken for other in ahead)
        return before + bool(self.slots)  # a slot that is free now is not for it

    def send(self, job: Job, now: float) -> list[Effect]:
        """Send the outcome of a prompt; while there is no connection or no journal it waits."""
        if not self.connected or not self.storing:
            return []
        self.ledger.published(job)
        return [replies.outcome(job, job.reply, int(job.deadline - now))]

    def send_outbox(self, now: float) -> list[Effect]:
        """Send outcomes that nobody has acknowledged, the oldest first."""
        due = self.ledger.due(now)[:OUTBOX_BATCH]
        return [effect for job in due for effect in self.send(job, now)]

    # --- ending -------------------------------------------------------------------------------
    def end(self, job: Job, step: Step, outcome: Outcome, now: float) -> list[Effect]:
        """Give a prompt its one outcome."""
        self.running.pop(job.key, None)
        job.end(step, outcome, now)
        self._count(job, outcome, now)
        self.ledger.touch(job)
        return self.send(job, now)

    def _count(self, job: Job, outcome: Outcome, now: float) -> None:
        error = CANCELLED if job.state == State.CANCELLED else outcome.code
        self.metrics.ended(now - job.queued_at, error)

    def fail(self, job: Job, step: Step, code: str, text: str, now: float) -> list[Effect]:
        """End it with an error."""
        return self.end(job, step, replies.error_outcome(wire.ProtocolError(code, text)), now)

    def finish(
        self,
        job: Job,
        text: str,
        reason: chat.FinishReason,
        usage: chat.Usage,
        timings: chat.Timings | None,
        now: float,
    ) -> list[Effect]:
        """End it with an answer, which may be cancelled."""
        payload = chat.completion(
            prompt_id=job.reply.prompt_id,
            model=self.model,
            created=int(self.epoch + now),
            text=text,
            finish_reason=reason,
            usage=usage,
            timings=timings,
            deltas=job.seq,
        )
        if job.key in self.running and reason != "cancelled":
            took = (now - job.started_at) * 1e3
            mean = took if self.run_ms is None else self.run_ms
            self.run_ms = mean + RUN_SHARE * (took - mean)
        cancelled = reason == "cancelled"
        step, status = (Step.CANCELLED, 499) if cancelled else (Step.FINISHED, 200)
        return self.end(job, step, Outcome("final", "", status, payload), now)

    def cancelled(self, job: Job, now: float) -> list[Effect]:
        """End one that has no text."""
        return self.finish(job, "", "cancelled", chat.Usage(0, 0, 0), None, now)

    def expire_waiting(self, now: float) -> list[Effect]:
        """A prompt whose time ran out before it started gets no answer: nobody waits for it.

        The error is stored, for whoever asks by `query`. Of one that ran before something died
        deltas may have gone out: its requester is told.
        """
        effects: list[Effect] = []
        for job in [job for job in self.queue if now >= job.deadline]:
            self.queue.remove(job)
            if job.starts:
                text = "the message's expiry ran out"
                effects += self.fail(job, Step.EXPIRED, "deadline_exceeded", text, now)
                continue
            error = wire.ProtocolError("deadline_exceeded", "it expired before it could start")
            outcome = replies.error_outcome(error)
            job.end(Step.EXPIRED, outcome, now)
            self._count(job, outcome, now)
            self.ledger.withhold(job)
            self.ignored += 1
        return effects

    def abandon(self, job: Job) -> list[Effect]:
        """Forget a prompt that nobody waits for: no minutes of computing for nobody."""
        self.ledger.drop(job)
        if self.running.pop(job.key, None) is not None:
            self.stopping.add(job.key)
            return [ToWorker(Cancel(job.key))]
        if job.outcome is None:
            self.queue.remove(job)
        return []

    # --- starting -----------------------------------------------------------------------------
    def can_start(self, job: Job, now: float) -> bool:
        """Whether a prompt that does not wait yet would be the next to start, and at once."""
        return self._next(self.queue.with_another(job), now) is job

    def next_to_start(self, now: float) -> Job | None:
        """The next prompt, if it can run now; it has left the queue then."""
        job = self._next(self.queue, now)
        if job is not None:
            self.queue.take(job)
        return job

    def _next(self, queue: FairQueue, now: float) -> Job | None:
        job = queue.first(self._leaving_room(queue, now))
        if job is None or len(self.running) + len(self.stopping) >= self.slots:
            return None
        # A prompt that was running when something died runs alone, so that it is known who did it.
        alone = job.starts or any(other.starts > 1 for other in self.running.values())
        if job.key in self.stopping or (alone and self.running):
            return None
        return job

    def _leaving_room(self, queue: FairQueue, now: float) -> set[str]:
        """Who runs as many prompts as one requester may while others ask: all slots but one."""
        running = Counter(job.requester for job in self.running.values())
        most = {name for name, count in running.items() if count >= self.slots - 1}
        if self.slots < 2 or not most:
            return set()
        lately = self.ledger.requesters_since(now - LATELY_SECONDS)
        return most if len(queue.requesters | running.keys() | lately) > 1 else set()

    def ended(self, key: str) -> Job | None:
        """The running prompt of which the worker says that it ended."""
        self.stopping.discard(key)
        return self.running.get(key)
