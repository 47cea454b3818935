"""The agent's prompts as a pure state machine: events in, effects out.

`handle(event, now)` is the only method; `now` is monotonic seconds. The state of a prompt and the
delivery of its outcome follow the two tables in `states`. Effects for the journal come first. A
session resumes only from the journal's rows (`Restored`). The session also decides when the agent
connects, reports that it is ready and gives up. Each `Tick` returns a `Snapshot` for the service
manager and for Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from edgekit.agent.serve.pipe import Done, Generated, Ready, Refused
from edgekit.agent.serve.session import replies
from edgekit.agent.serve.session.condition import Condition
from edgekit.agent.serve.session.dispatch import Dispatch
from edgekit.agent.serve.session.events import (
    Ack,
    CheckStorage,
    Connected,
    Controlled,
    Disconnected,
    Drain,
    Effect,
    Event,
    Exit,
    GiveUp,
    GoOnline,
    LeavePools,
    MessageHeard,
    Publish,
    Published,
    QualityKnown,
    Readings,
    ReadSensors,
    ReadyUnsaid,
    Received,
    Restored,
    SayReady,
    Snapshot,
    Stopped,
    StorageBack,
    TakenOver,
    Tick,
    Unrecorded,
    Warn,
    WorkerLost,
)
from edgekit.agent.serve.session.intake import NO_STORAGE, Intake
from edgekit.agent.serve.session.metrics import Metrics, Now
from edgekit.agent.serve.session.presence import HomeEntry, Presence, answer_cap, card_message
from edgekit.agent.serve.session.prompt import JournalRow, Prompt
from edgekit.agent.serve.session.prompts import Prompts
from edgekit.agent.serve.session.refusals import Refusals
from edgekit.agent.serve.session.rules.rules import Rules
from edgekit.agent.serve.session.states import PromptStep, State
from edgekit.core.chat.body import parse_body
from edgekit.core.chat.tools.formats import ChatRecord
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.core.protocol import payloads, wire
from edgekit.core.protocol.reasons import FAILURE, NO_MATCHING_SUBSCRIBERS
from edgekit.errors import TakenOverError

STORAGE_CHECK_SECONDS = 2.0
MEASURE_SECONDS = 5.0  # between two readings: a device gets hot within seconds
STOPPING = "the device stops"
COMMITS_ALL = (Tick, Drain, StorageBack, Stopped)  # these also commit records that can wait


@dataclass(slots=True)
class Session:
    """All prompts of one agent, and its presence at the broker.

    Args:
        config: this device.
        bundle: the release it serves.
        release: the release's digest.
        agent_version: for the card.
        epoch: Unix seconds minus monotonic seconds at start, for `created` in answers.
        takes_pictures: whether the release's model does.
        chat: what `pack` found out of the model's chat template.
        shown: whether Home Assistant may still be shown this device from before.
    """

    config: AgentConfig
    bundle: BundleConfig
    release: str
    agent_version: str
    epoch: float
    takes_pictures: bool = False
    chat: ChatRecord = field(default_factory=ChatRecord)
    shown: bool = False
    _prompts: Prompts = field(init=False)
    _intake: Intake = field(init=False)
    _dispatch: Dispatch = field(init=False)
    _rules: Rules = field(init=False)
    _presence: Presence = field(init=False)
    _home: HomeEntry = field(init=False)
    _condition: Condition = field(default_factory=Condition)
    _refusals: Refusals = field(default_factory=Refusals)
    _unserved_pools: tuple[str, ...] = ()
    _online: bool = False  # `GoOnline` was returned
    _answers: bool = False  # at least once a model was loaded while the broker was connected
    _ready_unsaid: bool = False
    _draining: float | None = None
    _successor: bool = False  # another agent takes over the prompts that a drain leaves
    _exited: bool = False
    _storage_check_at: float = 0.0
    _measure_at: float = 0.0

    def __post_init__(self) -> None:
        model = self.bundle.name
        metrics = Metrics(model, self.bundle.version, self.release, self.agent_version)
        self._prompts = Prompts(model, self.epoch, metrics)
        cap = answer_cap(self.config, self.bundle, None)
        self._presence = Presence(self.config.device)
        self._home = HomeEntry(self.config, self.bundle, self.agent_version, self.shown)
        self._dispatch = Dispatch(
            self.config, self.bundle, self._prompts, self._presence, self.chat.tools
        )
        self._intake = Intake(
            *(self.config, self._prompts, self._condition, cap, self._dispatch.options),
            self.takes_pictures,
        )
        self._rules = Rules(self.config, self._prompts, self._intake, self._start_next)

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Handle an event; return the effects that the service must perform."""
        self._dispatch.hear(event, now)
        if isinstance(event, Unrecorded):  # first: an outcome of this step must not be sent
            self._prompts.storing = False
        effects = self._prompts.expire_waiting(now)
        effects += self._react(event, now)
        effects += self._dispatch.hung(now)
        effects += self._start_next(now)
        effects += self._say_status(now)
        exits = self._drained(now)
        if exits:
            effects += self._end(now)
        if isinstance(event, Tick):
            effects.append(self._snapshot(now))
        if exits:
            effects.append(Exit())
        if not self._prompts.storing:
            return tuple(effects)
        told = self._prompts.ledger.effects(everything=isinstance(event, COMMITS_ALL))
        return (*told, *effects)

    def _react(self, event: Event, now: float) -> list[Effect]:  # noqa: PLR0911, PLR0912  one case each
        match event:
            case Generated():
                return self._dispatch.delta(event, now)
            case Received(message):
                starts = self._start_next(now)  # first: earlier prompts take free slots
                return [*starts, *self._intake.receive(message, now), Ack(message.token)]
            case Controlled(message):
                return [*self._intake.control(message, now), Ack(message.token)]
            case MessageHeard(message):
                return [*self._rules.heard(message, now), Ack(message.token)]
            case Done():
                return self._dispatch.done(event, now)
            case Refused():
                return self._dispatch.failed(event, now)
            case Ready():
                return self._ready(event)
            case WorkerLost():
                return self._dispatch.lost(now)
            case Connected():
                return self._connected(event, now)
            case Disconnected():
                self._prompts.connected = False
            case TakenOver():
                return [self._taken_over()]
            case Published(reply, code):
                return self._published(reply, code, now)
            case Restored(rows):
                return self._restore(rows, now)
            case Unrecorded():
                return self._unrecorded(event, now)
            case StorageBack():
                self._prompts.storing = True
                return self._prompts.send_outbox(now)
            case Readings():
                self._condition.update(event)
            case QualityKnown(report):
                self._presence.quality = report
            case ReadyUnsaid():
                self._ready_unsaid = True
            case Drain(deadline, successor):
                self._draining, self._successor = deadline, successor
                self._intake.draining = not successor
                return [LeavePools()]
            case Stopped() if not self._prompts.storing:
                return [CheckStorage()]
            case Tick(epoch):
                if epoch is not None:
                    self._prompts.epoch = epoch
                return self._tick(now)
        return []

    # --- the worker ---------------------------------------------------------------------------
    def _ready(self, model: Ready) -> list[Effect]:
        changed = self._dispatch.ready(model)
        if not self._online:  # only now: a device takes no prompt before it can answer it
            self._online = True
            return [GoOnline()]
        return [self._card()] if changed and self._prompts.connected else []

    def _start_next(self, now: float) -> list[Effect]:
        if self._draining is None:
            return self._dispatch.start_all(now)
        effects: list[Effect] = []
        queue = self._prompts.queue
        while not self._successor and (prompt := queue.first()) is not None:
            queue.take(prompt)
            if prompt.origin is None:  # who published a rule's message does not repeat it: it stays
                effects += self._hand_back(prompt, now)
        return effects

    # --- the broker ---------------------------------------------------------------------------
    def _connected(self, event: Connected, now: float) -> list[Effect]:
        self._prompts.connected = True
        if event.max_packet_bytes != self._prompts.max_packet_bytes:
            self._prompts.max_packet_bytes = event.max_packet_bytes
            self._prompts.too_long_said = False
        self._unserved_pools = event.unserved_pools
        self._presence.forget()
        self._prompts.ledger.reconnected()
        return [*self._say_ready(), self._card(), *self._home.due, *self._prompts.send_outbox(now)]

    def _say_ready(self, again: bool = False) -> list[Effect]:
        model = self._dispatch.model
        if model is None:
            return []
        self._answers, self._ready_unsaid = True, False
        return [SayReady(model, again)]

    def _taken_over(self) -> GiveUp:
        error = TakenOverError(
            f"another client connected to {self.config.broker} as {self.config.device}",
            "the broker ended this connection with reason code 0x8E, Session taken over",
            "give one of the two devices another name, then push to it",
        )
        return GiveUp(error)

    def _card(self) -> Publish:
        model = self._dispatch.model
        pools = [pool for pool in self.config.pools if pool not in self._unserved_pools]
        config = msgspec.structs.replace(self.config, pools=pools)
        return Publish(card_message(config, self.bundle, self.release, self.agent_version, model))

    def _published(self, reply: Publish, code: int | None, now: float) -> list[Effect]:
        said = "" if code is None else self._refusals.answered(reply.message.topic, code)
        told: list[Effect] = [Warn(said)] if said else []
        return [*told, *self._home.answered(reply, code), *self._delivered(reply, code, now)]

    def _delivered(self, reply: Publish, code: int | None, now: float) -> list[Effect]:
        ledger = self._prompts.ledger
        prompt = ledger.get(reply.key)
        to = (reply.message.topic, reply.message.correlation)
        if prompt is None or (prompt.reply.topic, prompt.reply.correlation) != to:
            return []  # this reply went to an address that a newer one has replaced
        if reply.kind == "accepted":
            nobody = code == NO_MATCHING_SUBSCRIBERS and prompt.outcome is None
            return self._prompts.abandon(prompt) if nobody else []
        if prompt.outcome is None:
            return []
        if code is None:
            ledger.lost(prompt)
        elif code >= FAILURE:
            ledger.refused(prompt, now)
        else:
            ledger.acknowledged(prompt)
        return []

    # --- the journal --------------------------------------------------------------------------
    def _restore(self, rows: tuple[JournalRow, ...], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for row in rows:
            prompt = Prompt.restore(row)
            self._prompts.ledger.add(prompt)
            if not self._may_be_answered(prompt):
                self._prompts.ledger.drop(prompt)
                self._prompts.ignored += 1
                continue
            if prompt.outcome is not None:
                continue
            try:
                prompt.request = (
                    parse_body(prompt.payload, prompt.reply.encoding)
                    if prompt.origin is None
                    else self._rules.request_of(prompt.origin)
                )
                self._intake.check_model(prompt.request)
            except wire.ProtocolError as error:  # this release may serve less than the one before
                outcome = replies.error_outcome(error)
                effects += self._prompts.end(prompt, PromptStep.REFUSED, outcome, now)
                continue
            if prompt.state == State.RUNNING:
                effects += self._dispatch.requeue(prompt, now)
            else:
                self._prompts.queue.add(prompt)
        return effects + self._prompts.expire_waiting(now)

    def _may_be_answered(self, prompt: Prompt) -> bool:
        if prompt.origin is not None:
            return self._rules.restore(prompt)
        to = prompt.reply
        return wire.may_be_answered(prompt.requester, to.topic, to.prompt_id)

    def _unrecorded(self, event: Unrecorded, now: float) -> list[Effect]:
        self._storage_check_at = now + STORAGE_CHECK_SECONDS
        effects: list[Effect] = []
        for prompt in self._prompts.ledger.failed(event.recorded, event.forgotten):
            effects += self._rules.abandon(prompt)
            error = wire.ProtocolError(*NO_STORAGE)
            self._prompts.metrics.rejected[error.code] += 1
            if prompt.origin is None:
                effects.append(replies.refusal(prompt.reply, error, int(prompt.deadline - now)))
        return effects

    # --- time ---------------------------------------------------------------------------------
    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = self._say_ready(again=True) if self._ready_unsaid else []
        effects += self._rules.tick(now)
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_SECONDS
            effects.append(ReadSensors())
        self._prompts.ledger.forget_old(now)
        if self._prompts.storing:
            effects += self._prompts.send_outbox(now)
        elif now >= self._storage_check_at:
            self._storage_check_at = now + STORAGE_CHECK_SECONDS
            effects.append(CheckStorage())
        return effects

    def _hand_back(self, prompt: Prompt, now: float) -> list[Effect]:
        return self._prompts.fail(prompt, PromptStep.HANDED_BACK, "draining", STOPPING, now)

    def _drained(self, now: float) -> bool:
        """Whether a drain ends now: no prompt runs any more, or its deadline has passed."""
        if self._draining is None or self._exited:
            return False
        return not self._prompts.running or now >= self._draining

    def _end(self, now: float) -> list[Effect]:
        effects: list[Effect] = self._rules.close(now) if self._successor else []
        for prompt in reversed(tuple(self._prompts.running.values())):
            stays = self._successor or prompt.origin is not None
            effects += (self._dispatch.hand_over if stays else self._hand_back)(prompt, now)
        self._exited = True
        return [*effects, *self._say_status(now)]

    # --- status and metrics -------------------------------------------------------------------
    def _say_status(self, now: float) -> list[Effect]:
        status = self._status()
        self._presence.note(status.state, now)
        if not self._prompts.connected:
            return []
        readings, epoch = self._condition.readings, self._prompts.epoch
        return list(self._presence.say(status, readings, now, epoch))

    def _snapshot(self, now: float) -> Snapshot:
        prompts, dispatch = self._prompts, self._dispatch
        waiting, running = len(prompts.queue), len(prompts.running)
        counted = prompts.metrics.families(
            Now(waiting, running, prompts.ignored, self._condition.readings)
        )
        return Snapshot(
            self._status(),
            connected=prompts.connected,
            answers=self._answers,
            owed=dispatch.owed,
            silent_seconds=dispatch.silent_seconds(now),
            metrics=counted,
            refused=self._refusals.now(),
        )

    def _status(self) -> wire.Status:
        state: payloads.DeviceState = "ready"
        if self._exited:
            state = "starting" if self._successor else "offline"
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
