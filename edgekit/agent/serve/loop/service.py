"""The agent's parent process: passes events to the session and performs its effects.

One loop on one thread waits for the broker, the worker and signals. Their messages become events in
a queue, which the loop empties before it waits again. The session makes every decision.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from pathlib import Path

import msgspec

from edgekit.agent.serve.loop import polling
from edgekit.agent.serve.loop.brokerfile import BrokerFile
from edgekit.agent.serve.loop.canaryfiles import CanaryFiles
from edgekit.agent.serve.loop.desiredfile import DesiredFile
from edgekit.agent.serve.loop.health import Health
from edgekit.agent.serve.loop.journal import Journal
from edgekit.agent.serve.loop.modelfile import chat_record, takes_pictures
from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.process import ModelProcess, worker_settings
from edgekit.agent.serve.loop.sensors import read_sensors
from edgekit.agent.serve.loop.storage import Storage
from edgekit.agent.serve.loop.trialfile import TrialFile
from edgekit.agent.serve.pipe import ForCanary, FromWorker, Ready
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
    ForgetShown,
    GiveUp,
    GoOnline,
    LeavePools,
    MessageHeard,
    Publish,
    Published,
    QualityKnown,
    ReadSensors,
    ReadyUnsaid,
    Received,
    SayReady,
    Snapshot,
    Spawn,
    Stopped,
    TakenOver,
    Tick,
    ToWorker,
    Warn,
    WorkerLost,
)
from edgekit.agent.serve.session.replies import status_message
from edgekit.agent.serve.session.session import Session
from edgekit.core import layout
from edgekit.core.config import AgentConfig, PullConfig
from edgekit.core.manifest import BundleConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError
from edgekit.mqtt.engine import LOST
from edgekit.mqtt.polled import PolledClient
from edgekit.store import publish

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
FLUSH_SECONDS = 4.0  # to wait for the last PUBACKs when the agent ends
WILL_DELAY_SECONDS = 10
PACKET_RATIO = 2  # largest packet over largest body; the broker drops what is larger: no 413


class Service:
    """Serves one release until SIGTERM.

    Args:
        config: this device.
        bundle: the release's config.
        release: its digest.
        model_dir: its model folder.
        ready_file: written once the model has answered and the broker has confirmed the
            subscriptions.
        tuning_file: stores the runtime's measured settings.
        version: of the agent, for the card.
        journal: path of `journal.db`.
        notifier: to the service manager, if the agent runs under one.
        trial: reports of the trial that the release is in; None where it is in none.
        golden: path of the golden prompts to score first; empty for none.
        canary: compares this release with the one before it; None: nothing does.
        desired: takes what the broker says that this device shall run; None: nothing does.
    """

    def __init__(
        self,
        config: AgentConfig,
        bundle: BundleConfig,
        release: str,
        model_dir: Path,
        ready_file: Path,
        tuning_file: Path,
        version: str,
        journal: Path,
        notifier: Notifier,
        trial: TrialFile | None = None,
        golden: str = "",
        *,
        canary: CanaryFiles | None = None,
        desired: DesiredFile | None = None,
    ) -> None:
        self._canary, self._quality_said = canary, False
        self._config = config
        self._trial = trial
        self._desired = desired or DesiredFile(config.device, PullConfig(), Path(), Path())
        self._release = release
        self._ready_file = ready_file
        epoch, chat = time.time() - time.monotonic(), chat_record(model_dir)
        pictures = takes_pictures(model_dir)
        room_bytes = PACKET_RATIO * wire.max_body_bytes(pictures, config.images_per_prompt)
        # A pool may have devices that take pictures: what is for them is refused here by name
        max_packet_bytes = max(room_bytes, wire.LARGEST_PROMPT_BYTES)
        self._shown_file = ready_file.with_name(layout.SHOWN_FILE.name)
        shown = self._shown_file.exists()
        self._session = Session(config, bundle, release, version, epoch, pictures, chat, shown)
        self._journal = Journal(journal, check_bytes=room_bytes)
        self._storage = Storage(self._journal)
        self._disk = journal.parent
        self._events: deque[Event] = deque()
        self._tick_at = 0.0
        self._respawn_at: float | None = None
        self._running = True
        self._followed = True  # an agent that crashes is, too
        self._failure: EdgekitError | None = None
        self._pools = [topics.pool_filter(pool) for pool in config.pools]
        self._worker = ModelProcess(
            worker_settings(
                config, bundle, release, model_dir, tuning_file, golden, trial is not None
            ),
            on_message=self._said,
            on_end=self._worker_ended,
        )
        requests = [topics.request_topic(config.device, "+"), *self._pools, *self._desired.topics]
        requests += dict.fromkeys(rule.topic_filter for rule in config.rules.values())
        controls = [topics.control_topic(config.device, "+")]
        controls += [topics.pool_control_topic(pool, "+") for pool in config.pools]
        self._mqtt = PolledClient(
            config.broker,
            f"edgekit-{config.device}",
            subscriptions=[*((f, 1) for f in requests), *((f, 0) for f in controls)],
            on_message=self._received,
            on_connection=self._connection,
            on_taken_over=lambda: self._events.append(TakenOver()),
            will=status_message(config.device, wire.Status("lost", release)),
            will_delay_seconds=WILL_DELAY_SECONDS,
            manual_ack=True,
            resend=False,
            max_packet_bytes=max_packet_bytes,
        )
        self._notifier = notifier
        self._health = Health(config, notifier, self._mqtt.publish)
        self._broker_file = BrokerFile(
            ready_file.with_name(layout.BROKER_FILE.name), str(config.broker)
        )

    def run(self) -> None:
        """Serve until the drain is complete.

        Raises:
            TakenOverError: another client connected under this device's name.
            EdgekitError: the model cannot be loaded.
        """
        self._ready_file.unlink(missing_ok=True)
        self._broker_file.remove()
        self._note_shown()
        if self._trial is not None:
            self._trial.remove()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._drain())
        signal.signal(polling.HAND_OVER, lambda *_: self._drain(successor=True))
        signals = polling.Signals()
        self._handle(self._storage.restore())
        self._worker.start()
        try:
            while self._running:
                event = self._next_event((self._mqtt, self._worker, signals))
                self._handle(event)
                if isinstance(event, Tick):
                    self._tick(time.monotonic())
        finally:
            self._running = False
            self._ready_file.unlink(missing_ok=True)
            self._broker_file.remove()
            self._mqtt.close(FLUSH_SECONDS)
            self._note_last_pubacks()
            self._journal.close()
            self._worker.stop()
            if self._canary is not None:
                self._canary.close(successor=self._followed)
            signals.close()
        if self._failure is not None:
            raise self._failure

    def _note_shown(self) -> None:
        """Remember that Home Assistant is shown this device, for when it is switched off."""
        if not self._config.home_assistant or self._shown_file.exists():
            return
        try:
            publish(self._shown_file, b"")
        except OSError as error:  # a full disk must not end the agent
            log.warning("%s cannot be written: %s", self._shown_file, error)

    # --- events in ----------------------------------------------------------------------------
    def _next_event(self, sources: tuple[polling.Pollable, ...]) -> Event:
        """Return the next event, or a `Tick` when one is due."""
        while True:
            now = time.monotonic()
            if now >= self._tick_at:  # first: while answers stream the queue is never empty
                self._tick_at = now + TICK_SECONDS
                return Tick(time.time() - now)
            if self._events:
                return self._events.popleft()
            polling.wait(sources, self._tick_at - now)

    def _tick(self, now: float) -> None:
        """Do what the MQTT client and the worker need in every tick."""
        self._mqtt.tick(now)
        if (report := self._desired.tick(now)) is not None and self._mqtt.connected:
            self._mqtt.publish(report)
        if self._trial is not None:
            self._trial.tick(self._worker.pid)
        if self._respawn_at is not None and now >= self._respawn_at:
            self._respawn_at = None
            self._worker.start()

    def _worker_ended(self) -> None:
        if self._canary is not None:
            self._canary.lost()
        self._events.append(WorkerLost())

    def _compare(self, snapshot: Snapshot) -> None:
        """Let the canary go on, and tell the session once what came out."""
        if self._canary is None:
            return
        judged = self._trial is None or self._trial.over
        walk = self._canary.tick(snapshot, judged, time.monotonic())
        if walk is not None:
            self._worker.tell(walk)
        if self._canary.report is not None and not self._quality_said:
            self._quality_said = True
            self._events.append(QualityKnown(self._canary.report))

    def _said(self, message: FromWorker) -> None:
        if isinstance(message, ForCanary):
            if self._canary is not None:
                self._canary.said(message)
            return
        if isinstance(message, Ready):
            log.info("model ready: %s", message)
            if self._trial is not None:
                self._trial.loaded(message.score)
        self._events.append(message)

    def _received(self, message: wire.Inbound) -> None:
        if topics.is_desired(message.topic):
            self._desired.take(message, time.monotonic())
            self._mqtt.ack(message.token)
            return
        asked = Controlled if topics.is_control(message.topic) else Received
        self._events.append((asked if topics.is_ours(message.topic) else MessageHeard)(message))

    def _connection(self, up: bool) -> None:
        log.info("broker %s: %s", self._config.broker, "subscribed" if up else "connection lost")
        if not up:
            self._desired.disconnected()
            self._events.append(Disconnected())
            return
        if self._trial is not None:
            self._trial.connected()
        standing = self._mqtt.standing
        self._desired.connected(time.monotonic(), standing.unserved)
        unserved = [
            pool for pool in self._config.pools if topics.pool_filter(pool) in standing.unserved
        ]
        self._events.append(Connected(standing.terms.max_packet_bytes, tuple(unserved)))

    def _drain(self, *, successor: bool = False) -> None:
        self._followed = successor
        deadline = time.monotonic() + self._config.drain_seconds
        self._events.append(Drain(deadline, successor))

    def _note_last_pubacks(self) -> None:
        """Record the last PUBACKs: the next agent must not send those outcomes again."""
        last = (event for event in tuple(self._events) if isinstance(event, Published))
        events: tuple[Event, ...] = (Disconnected(), *last, Stopped())
        for event in events:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        try:
            effects = self._session.handle(event, time.monotonic())
        except Exception:  # a defect that one prompt triggers must not harm the others
            log.exception("the session failed on %s", type(event).__name__)
            if isinstance(
                event, Received | Controlled | MessageHeard
            ):  # else the broker waits for its PUBACK
                self._mqtt.ack(event.message.token)
            return
        self._perform(effects)
        if isinstance(event, Tick | Stopped):
            self._journal.tidy()

    # --- effects out --------------------------------------------------------------------------
    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:  # prefill may start while the disk works
            if isinstance(effect, ToWorker):
                self._worker.tell(effect.message)
        unrecorded = self._storage.commit(effects)
        held_back = set(unrecorded.recorded) if unrecorded else set()
        for effect in effects:
            match effect:
                case Publish():
                    if effect.key not in held_back:
                        self._publish(effect)
                case Ack(token):
                    self._mqtt.ack(token)
                case _:
                    self._act(effect)
        if unrecorded:
            self._handle(unrecorded)

    def _act(self, effect: Effect) -> None:
        """Perform one of the rare effects."""
        match effect:
            case Spawn(after_seconds):
                self._respawn_at = time.monotonic() + after_seconds
            case CheckStorage():
                for event in self._storage.check():
                    self._handle(event)
            case GoOnline():
                self._mqtt.start()
            case ForgetShown():
                self._shown_file.unlink(missing_ok=True)
            case LeavePools():
                self._mqtt.unsubscribe(self._pools)
            case SayReady():
                self._say_ready(effect)
            case ReadSensors():
                self._events.append(read_sensors(disk=self._disk))
            case Snapshot():
                self._health.tell(effect, time.monotonic())
                self._broker_file.tell(effect, self._mqtt.standing, self._desired.trouble)
                self._compare(effect)
            case Warn(text):
                log.warning("%s", text)
            case Exit():
                self._running = False
            case GiveUp(error):
                self._failure = error
                self._running = False

    def _publish(self, effect: Publish) -> None:
        try:
            future = self._mqtt.publish(effect.message)
        except Exception:  # a reply that fits no packet must not harm the others
            log.exception("a reply to %s cannot be published", effect.key)
            return
        if effect.message.qos:
            future.add_done_callback(lambda done: self._published(effect, done.result()))

    def _published(self, effect: Publish, code: int) -> None:
        self._events.append(Published(effect, None if code == LOST else code))

    def _say_ready(self, effect: SayReady) -> None:
        state = {"release": self._release, "pid": os.getpid(), "model": effect.model}
        try:
            publish(self._ready_file, msgspec.json.encode(state))
        except OSError as error:  # a full disk must not end the agent
            if not effect.again:
                log.warning("%s cannot be written: %s", self._ready_file, error)
            self._events.append(ReadyUnsaid())
