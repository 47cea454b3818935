"""The agent's prompts as a machine: events in, effects out, nothing touched.

`handle(event, now)` is the only method; `now` is monotonic seconds. A prompt moves along the table
in `states`. What the journal is to know comes first among the effects, and reading it back
(`Restored`) is the only way in which a session is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import msgspec

from edgekit.agent.serve import replies
from edgekit.agent.serve.condition import Condition
from edgekit.agent.serve.events import (
    Ack,
    CheckStorage,
    Connected,
    Controlled,
    Disconnected,
    Drain,
    Effect,
    Event,
    Exit,
    LeavePools,
    Measured,
    Publish,
    Published,
    Received,
    Restored,
    Spawn,
    StorageBack,
    Tick,
    ToWorker,
    Unrecorded,
    WorkerLost,
)
from edgekit.agent.serve.intake import NO_STORAGE, Intake
from edgekit.agent.serve.job import REFUSED_RETRY_SECONDS, Job, Row
from edgekit.agent.serve.metrics import Family, Metrics, Now
from edgekit.agent.serve.pipe import Delta, Done, Failed, Heartbeat, Ready, Start
from edgekit.agent.serve.presence import Presence, answer_cap, card_message
from edgekit.agent.serve.prompts import Prompts
from edgekit.agent.serve.states import State, Step
from edgekit.core import chat, payloads, wire
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.core.packet import FAILURE, NO_MATCHING_SUBSCRIBERS

REPLY_MARGIN_SECONDS = 0.25  # a running prompt stops this early, so that its error still arrives
MAX_DEATHS = 2  # of the worker on one prompt, before it is given up as the culprit
MAX_STARTS = 4  # the agent's own deaths count here: a prompt may take the whole device down
RESPAWN_SECONDS = 1.0
HUNG_SECONDS = 60.0  # past a deadline that the worker itself looks at between two slices
STORAGE_CHECK_SECONDS = 2.0
STOPPING = "the device stops"


@dataclass(slots=True)
class Session:
    """All prompts of one agent, and what it says of itself.

    Args:
        config: this device.
        bundle: the release it serves.
        release: the release's digest.
        agent_version: for the card.
        epoch: Unix seconds minus monotonic seconds at start, for `created` in answers.
    """

    config: AgentConfig
    bundle: BundleConfig
    release: str
    agent_version: str
    epoch: float
    _prompts: Prompts = field(init=False)
    _intake: Intake = field(init=False)
    _presence: Presence = field(init=False)
    _condition: Condition = field(default_factory=Condition)
    _model: Ready | None = None  # the one loaded last
    _draining: float | None = None
    _exited: bool = False
    _storage_check_at: float = 0.0
    _heard_at: float | None = None  # the worker said something, or had nothing to do

    def __post_init__(self) -> None:
        model = self.bundle.name
        metrics = Metrics(model, self.bundle.version, self.release, self.agent_version)
        self._prompts = Prompts(model, self.epoch, metrics)
        self._intake = Intake(self.config, self._prompts, self._condition)
        self._presence = Presence(self.config.device)

    @property
    def ignored(self) -> int:
        """Messages and prompts that got no answer."""
        return self._prompts.ignored

    @property
    def owed(self) -> bool:
        """Whether the worker has something to do: to load the model, or a prompt."""
        prompts = self._prompts
        return bool(not prompts.slots or prompts.running or prompts.stopping)

    def silent_seconds(self, now: float) -> float:
        """For how long the worker has owed something and said nothing."""
        return now - self._heard_at if self._heard_at is not None else 0.0

    @property
    def connected(self) -> bool:
        """Whether the broker has subscribed us."""
        return self._prompts.connected

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """What is to be done now that `event` happened."""
        from_worker = isinstance(event, Ready | Heartbeat | Delta | Done | Failed)
        if from_worker or not self.owed or self._heard_at is None:
            self._heard_at = now + (event.quiet_seconds if isinstance(event, Heartbeat) else 0.0)
        if isinstance(event, Unrecorded):  # before anything else ends, and would be said
            self._prompts.storing = False
        effects = self._prompts.expire_waiting(now)
        effects += self._react(event, now)
        effects += self._hung(now)
        effects += self._start_next(now)
        effects += self._say_status(now)
        effects += self._exit_when_drained(now)
        if not self._prompts.storing:
            return tuple(effects)
        everything = isinstance(event, Tick | Drain | StorageBack)
        return (*self._prompts.ledger.effects(everything=everything), *effects)

    def _react(self, event: Event, now: float) -> list[Effect]:  # noqa: PLR0911, PLR0912  one case each
        match event:
            case Received(message):
                starts = self._start_next(now)  # what is free then, the new prompt may have
                return [*starts, *self._intake.receive(message, now), Ack(message.token)]
            case Controlled(message):
                return [*self._intake.control(message, now), Ack(message.token)]
            case Ready():
                return self._ready(event)
            case Delta():
                return self._delta(event, now)
            case Done():
                return self._done(event, now)
            case Failed(key, code, text, param):
                job = self._prompts.ended(key)
                if job is None:
                    return []
                outcome = replies.error_outcome(wire.ProtocolError(code, text, param))
                return self._prompts.end(job, Step.REFUSED, outcome, now)
            case WorkerLost():
                return self._worker_lost(now)
            case Connected():
                return self._connected(now)
            case Disconnected():
                self._prompts.connected = False
            case Published(reply, code):
                return self._published(reply, code, now)
            case Restored(rows):
                return self._restore(rows, now)
            case Unrecorded():
                return self._unrecorded(event, now)
            case StorageBack():
                self._prompts.storing = True
                return self._prompts.send_outbox(now)
            case Measured():
                self._condition.measure(event)
            case Drain(deadline):
                self._draining = deadline
                self._intake.draining = True
                return [LeavePools()]
            case Tick():
                return self._tick(now)
        return []

    # --- the worker ---------------------------------------------------------------------------
    def _ready(self, model: Ready) -> list[Effect]:
        self._prompts.slots = model.slots
        before, self._model = self._model, model
        # the one after a crash may find less memory
        changed = before is not None and before.served != model.served
        return [self._card()] if changed and self._prompts.connected else []

    def _start_next(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        queue = self._prompts.queue
        if self._draining is not None:
            while (job := queue.first()) is not None:
                queue.take(job)
                effects += self._hand_back(job, now)
            return effects
        while (job := self._prompts.next_to_start(now)) is not None:
            effects.append(ToWorker(self._start(job, now)))
        return effects

    def _start(self, job: Job, now: float) -> Start:
        request = job.request
        assert request is not None, "a prompt that ended does not wait"
        job.move(Step.STARTED)
        job.starts += 1
        job.started_at = now
        self._prompts.running[job.key] = job
        self._prompts.ledger.touch(job)
        limit = answer_cap(self.config, self.bundle, self._model)
        return Start(
            job=job.key,
            requester=job.requester,
            messages=[(m.role, m.text) for m in request.messages],
            sampling=chat.sampling_of(request, self.bundle.search),
            stops=request.stops,
            answer_limit=min(request.answer_limit or limit, limit),
            deadline=job.deadline - REPLY_MARGIN_SECONDS,
            prompt_limit=self.config.max_prompt_tokens,
        )

    def _delta(self, event: Delta, now: float) -> list[Effect]:
        job = self._prompts.running.get(event.job)
        if job is None or job.request is None or job.mute or not self._prompts.connected:
            return []
        if job.reply.final_only or job.request.stream is False:
            return []
        effect = replies.delta(job, event.text, now)
        job.seq += 1
        return [effect]

    def _done(self, event: Done, now: float) -> list[Effect]:
        job = self._prompts.ended(event.job)
        if job is None:
            return []
        self._prompts.metrics.used(event.usage)
        if event.usage.completion_tokens:
            self._presence.tok_s = round(event.timings.predicted_per_second, 1)
            self._presence.ttft_ms = round(event.timings.first_token_ms, 1)
        if event.finish_reason == "deadline":
            text = "the message's expiry ran out"
            return self._prompts.fail(job, Step.EXPIRED, "deadline_exceeded", text, now)
        queue_ms = (job.started_at - job.queued_at) * 1e3
        timings = msgspec.structs.replace(event.timings, queue_ms=queue_ms)
        if event.finish_reason != "cancelled":
            tokens = event.usage.completion_tokens
            self._prompts.metrics.answered(now - job.queued_at, timings, tokens)
        reason = cast(chat.FinishReason, event.finish_reason)
        return self._prompts.finish(job, event.text, reason, event.usage, timings, now)

    def _worker_lost(self, now: float) -> list[Effect]:
        self._prompts.metrics.worker_restarts += 1
        self._prompts.slots = 0
        self._prompts.stopping.clear()
        effects: list[Effect] = []
        for job in reversed(tuple(self._prompts.running.values())):
            job.deaths += 1
            effects += self._requeue(job, now)
        return [*effects, Spawn(RESPAWN_SECONDS)]

    def _requeue(self, job: Job, now: float) -> list[Effect]:
        """Run it again, unless it is the culprit of too many deaths or was to stop anyway."""
        self._prompts.running.pop(job.key, None)
        job.move(Step.REQUEUED)
        if job.cancelling:
            return self._prompts.cancelled(job, now)
        if job.deaths >= MAX_DEATHS or job.starts >= MAX_STARTS:
            text = f"the model process died {job.deaths} times on this prompt"
            if job.deaths < MAX_DEATHS:
                text = f"{job.starts} attempts at this prompt ended with the agent's death"
            return self._prompts.fail(job, Step.CRASHED, "worker_crashed", text, now)
        job.mute = job.mute or job.seq > 0
        self._prompts.queue.put_back(job)
        self._prompts.ledger.touch(job)
        return []

    def _hung(self, now: float) -> list[Effect]:
        running = self._prompts.running.values()
        if any(now >= job.deadline + HUNG_SECONDS for job in running):
            return self._worker_lost(now)
        return []

    # --- the broker ---------------------------------------------------------------------------
    def _connected(self, now: float) -> list[Effect]:
        self._prompts.connected = True
        self._presence.forget()
        for job in self._prompts.ledger:
            job.in_flight = False
        return [self._card(), *self._prompts.send_outbox(now)]

    def _card(self) -> Publish:
        return Publish(
            card_message(self.config, self.bundle, self.release, self.agent_version, self._model)
        )

    def _published(self, reply: Publish, code: int | None, now: float) -> list[Effect]:
        job = self._prompts.ledger.get(reply.key)
        to = (reply.message.topic, reply.message.correlation)
        if job is None or (job.reply.topic, job.reply.correlation) != to:
            return []  # it went to an address that was replaced by a newer one
        if reply.kind == "accepted":
            nobody = code == NO_MATCHING_SUBSCRIBERS and job.outcome is None
            return self._prompts.abandon(job) if nobody else []
        job.in_flight = False
        if job.outcome is None or job.sent or code is None:
            return []
        if code >= FAILURE:
            job.send_at = now + REFUSED_RETRY_SECONDS
            return []
        job.sent = True
        self._prompts.ledger.touch(job, can_wait=True)
        return []

    # --- the journal --------------------------------------------------------------------------
    def _restore(self, rows: tuple[Row, ...], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for row in rows:
            job = Job.restore(row)
            self._prompts.ledger.add(job)
            if not wire.may_be_answered(job.requester, job.reply.topic, job.reply.prompt_id):
                self._prompts.ledger.drop(job)
                self._prompts.ignored += 1
                continue
            if job.outcome is not None:
                continue
            try:
                job.request = chat.parse_body(job.payload, job.reply.encoding)
                self._intake.check_model(job.request)
            except wire.ProtocolError as error:  # this release serves less than the one before
                outcome = replies.error_outcome(error)
                effects += self._prompts.end(job, Step.REFUSED, outcome, now)
                continue
            if job.state == State.RUNNING:
                effects += self._requeue(job, now)
            else:
                self._prompts.queue.add(job)
        return effects + self._prompts.expire_waiting(now)

    def _unrecorded(self, event: Unrecorded, now: float) -> list[Effect]:
        self._storage_check_at = now + STORAGE_CHECK_SECONDS
        effects: list[Effect] = []
        for job in self._prompts.ledger.failed(event.recorded, event.forgotten):
            effects += self._prompts.abandon(job)
            error = wire.ProtocolError(*NO_STORAGE)
            self._prompts.metrics.rejected[error.code] += 1
            effects.append(replies.refusal(job.reply, error, int(job.deadline - now)))
        return effects

    # --- time ---------------------------------------------------------------------------------
    def _tick(self, now: float) -> list[Effect]:
        self._prompts.ledger.forget_old(now)
        if self._prompts.storing:
            return self._prompts.send_outbox(now)
        if now < self._storage_check_at:
            return []
        self._storage_check_at = now + STORAGE_CHECK_SECONDS
        return [CheckStorage()]

    def _hand_back(self, job: Job, now: float) -> list[Effect]:
        return self._prompts.fail(job, Step.HANDED_BACK, "draining", STOPPING, now)

    def _exit_when_drained(self, now: float) -> list[Effect]:
        if self._draining is None or self._exited:
            return []
        running = tuple(self._prompts.running.values())
        if running and now < self._draining:
            return []
        effects = [effect for job in running for effect in self._hand_back(job, now)]
        self._exited = True
        return [*effects, *self._say_status(now), Exit()]

    def _say_status(self, now: float) -> list[Effect]:
        if not self._prompts.connected:
            return []
        return list(self._presence.say(self.status(), self._condition.measured, now))

    def metrics(self) -> list[Family]:
        """What was counted, and how it is now."""
        prompts = self._prompts
        now = Now(
            len(prompts.queue), len(prompts.running), prompts.ignored, self._condition.measured
        )
        return prompts.metrics.families(now)

    def status(self) -> wire.Status:
        """How the device is, said or not."""
        state: payloads.DeviceState = "ready"
        if self._exited:
            state = "offline"
        elif self._draining is not None:
            state = "draining"
        elif not self._prompts.slots:
            state = "starting"
        elif not self._prompts.storing or self._condition.disk:
            state = "read_only"
        elif self._condition.reason:
            state = "degraded"
        elif self._prompts.running:
            state = "busy"
        waiting, active = len(self._prompts.queue), len(self._prompts.running)
        reason = self._condition.reason if state == "degraded" else ""
        return self._presence.status(state, self.release, waiting, active, reason)
