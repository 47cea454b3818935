"""The agent's parent process: carries events to the session and performs its effects.

One loop on one thread waits for the broker, the worker and signals; what they say are events in a
queue, which is empty before it waits again.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from pathlib import Path

import msgspec

from edgekit.agent.serve import polling
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
    Forget,
    LeavePools,
    Publish,
    Published,
    Received,
    Record,
    Restored,
    Spawn,
    StorageBack,
    Tick,
    ToWorker,
    Unrecorded,
    WorkerLost,
)
from edgekit.agent.serve.health import Health
from edgekit.agent.serve.journal import Journal, StorageError
from edgekit.agent.serve.link import BrokerLink
from edgekit.agent.serve.measure import measured
from edgekit.agent.serve.notify import Notifier
from edgekit.agent.serve.pipe import Ready
from edgekit.agent.serve.process import ModelProcess
from edgekit.agent.serve.replies import status_message
from edgekit.agent.serve.session import Session
from edgekit.core import topics, wire
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.errors import EdgekitError, TakenOverError
from edgekit.mqtt import LOST
from edgekit.store import publish

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
MEASURE_SECONDS = 5.0  # a device gets hot within seconds
FLUSH_SECONDS = 4.0  # for the last PUBACKs when the agent ends
WILL_DELAY_SECONDS = 10
MAX_PACKET_BYTES = 2 * wire.MAX_BODY_BYTES  # the broker drops a larger one, which gets no 413
TUNE_SHARE = 0.25  # of the trial's time: the model is loaded and answers in the rest of it
MAX_FAILED_LOADS = 2  # then the agent ends: a trial goes back at once, else the supervisor waits


class Service:
    """Serves one release until SIGTERM.

    Args:
        config: this device.
        bundle: the release's config.
        release: its digest.
        model_dir: its model folder.
        ready_file: written once the model has answered and the broker has subscribed us.
        tuning_file: where the runtime's measured settings are kept.
        version: of the agent, for the card.
        journal: the prompts' database.
        notifier: to the service manager, if there is one.
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
    ) -> None:
        self._config = config
        self._release = release
        self._ready_file = ready_file
        epoch = time.time() - time.monotonic()
        self._session = Session(config, bundle, release, version, epoch)
        self._journal = Journal(journal)
        self._disk = journal.parent
        self._restored = False
        self._complained = False
        self._events: deque[Event] = deque()
        self._tick_at = 0.0
        self._worker = ModelProcess(
            [
                *("--model", str(model_dir), "--max-length", str(bundle.context_length)),
                *("--threads", str(config.threads), "--slots", str(config.slots)),
                *("--release", release, "--tuning", str(tuning_file)),
                *("--max-beams", str(config.max_beams)),
                *("--logits-processors", config.logits_processors),
                *("--batching", str(int(config.batching))),
                *("--tune-seconds", str(config.trial_seconds * TUNE_SHARE)),
            ],
            on_message=self._events.append,
            on_end=lambda: self._events.append(WorkerLost()),
        )
        self._respawn_at: float | None = None
        self._measure_at = 0.0
        self._model: Ready | None = None
        self._say_ready_again = False
        self._answers = False
        self._failed_loads = 0
        self._online = False
        self._taken_over = False
        self._running = True
        self._pools = [topics.pool_filter(pool) for pool in config.pools]
        requests = [topics.request_topic(config.device, "+"), *self._pools]
        controls = [topics.control_topic(config.device, "+")]
        controls += [topics.pool_control_topic(pool, "+") for pool in config.pools]
        self._mqtt = BrokerLink(
            config.broker,
            f"edgekit-{config.device}",
            subscriptions=[*((f, 1) for f in requests), *((f, 0) for f in controls)],
            on_message=self._received,
            on_connection=self._connection,
            on_taken_over=self._take_over,
            will=status_message(config.device, wire.Status("lost", release)),
            will_delay_seconds=WILL_DELAY_SECONDS,
            manual_ack=True,
            resend=False,
            max_packet_bytes=MAX_PACKET_BYTES,
        )
        self._health = Health(self._session, notifier, self._mqtt.publish)

    def run(self) -> None:
        """Serve; returns when everything is drained.

        Raises:
            TakenOverError: another client has this device's name.
        """
        self._ready_file.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._drain())
        signals = polling.Signals()
        self._handle(Disconnected())
        self._restore()
        self._worker.start()
        try:
            while self._running:
                event = self._next_event((self._mqtt, self._worker, signals))
                self._prepare(event)
                self._handle(event)
                if isinstance(event, Tick):
                    self._tick()
        finally:
            self._running = False
            self._ready_file.unlink(missing_ok=True)
            if self._online:
                self._mqtt.close(FLUSH_SECONDS)
                self._online = False
            self._note_last_pubacks()
            self._journal.close()
            self._worker.stop()
            signals.close()

    # --- events in ----------------------------------------------------------------------------
    def _next_event(self, sources: tuple[polling.Source, ...]) -> Event:
        """What has happened, or a `Tick` when it is time."""
        while True:
            now = time.monotonic()
            if now >= self._tick_at:  # first: while answers stream there is always another event
                self._tick_at = now + TICK_SECONDS
                return Tick()
            if self._events:
                return self._events.popleft()
            polling.wait(sources, self._tick_at - now)

    def _prepare(self, event: Event) -> None:
        """What an event means to others than the session."""
        if self._taken_over:
            raise TakenOverError(
                f"another client connected to {self._config.broker} as {self._config.device}",
                "the broker ended this connection with reason code 0x8E, Session taken over",
                "give one of the two devices another name, then push to it",
            )
        if isinstance(event, Ready):
            log.info("model ready: %s", event)
            self._model = event
            if not self._online:
                # Subscribed only now: a prompt is not taken before it can be answered.
                self._online = True
                self._mqtt.start()
        if isinstance(event, Connected):
            self._say_ready()
            self._answers = True
        if isinstance(event, Drain):
            self._health.stopping()
        if isinstance(event, WorkerLost) and self._model is None:
            self._failed_loads += 1
            if self._failed_loads == MAX_FAILED_LOADS:
                raise EdgekitError(
                    f"the model process ended {MAX_FAILED_LOADS} times before it had answered"
                )

    def _tick(self) -> None:
        now = time.monotonic()
        if self._online:
            self._mqtt.tick(now)
        if self._respawn_at is not None and now >= self._respawn_at:
            self._respawn_at = None
            self._worker.start()
        if self._say_ready_again:
            self._say_ready()
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_SECONDS
            self._events.append(measured(disk=self._disk))
        self._health.tick(now, answers=self._answers)

    def _received(self, message: wire.Inbound) -> None:
        event = Controlled if topics.is_control(message.topic) else Received
        self._events.append(event(message))

    def _connection(self, up: bool) -> None:
        log.info("broker %s: %s", self._config.broker, "subscribed" if up else "connection lost")
        self._events.append(Connected() if up else Disconnected())

    def _take_over(self) -> None:
        self._taken_over = True

    def _drain(self) -> None:
        self._events.append(Drain(time.monotonic() + self._config.drain_seconds))

    def _say_ready(self) -> None:
        state = {"release": self._release, "pid": os.getpid(), "model": self._model}
        try:
            publish(self._ready_file, msgspec.json.encode(state))
        except OSError as error:  # a full disk must not end the agent
            if not self._say_ready_again:
                log.warning("%s cannot be written: %s", self._ready_file, error)
            self._say_ready_again = True
            return
        self._say_ready_again = False

    def _note_last_pubacks(self) -> None:
        """What the broker has is not sent again by the next agent."""
        for event in [event for event in self._events if isinstance(event, Published)]:
            self._handle(event)
        self._handle(Tick())

    def _handle(self, event: Event) -> None:
        try:
            effects = self._session.handle(event, time.monotonic())
        except Exception:  # a defect met by one prompt must not cost the others
            log.exception("the session failed on %s", type(event).__name__)
            if isinstance(event, Received | Controlled):  # else the broker waits for its PUBACK
                self._mqtt.ack(event.message.token)
            return
        self._perform(effects)
        if isinstance(event, Tick):
            self._journal.tidy()

    # --- effects out --------------------------------------------------------------------------
    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:  # prefill may start while the disk works
            if isinstance(effect, ToWorker):
                self._worker.tell(effect.message)
        unrecorded = self._commit(effects)
        held_back = set(unrecorded.recorded) if unrecorded else set()
        for effect in effects:
            match effect:
                case Publish():
                    if self._online and effect.key not in held_back:
                        self._publish(effect)
                case Ack(token):
                    self._mqtt.ack(token)
                case Spawn(after_seconds):
                    self._respawn_at = time.monotonic() + after_seconds
                case CheckStorage():
                    self._check_storage()
                case LeavePools():
                    self._mqtt.unsubscribe(self._pools)
                case Exit():
                    self._running = False
        if unrecorded:
            self._handle(unrecorded)

    def _publish(self, effect: Publish) -> None:
        try:
            future = self._mqtt.publish(effect.message)
        except Exception:  # a reply that cannot be put into a packet must not cost the others
            log.exception("a reply to %s cannot be published", effect.key)
            return
        if effect.key and effect.message.qos:
            future.add_done_callback(lambda done: self._published(effect, done.result()))

    def _published(self, effect: Publish, code: int) -> None:
        self._events.append(Published(effect, None if code == LOST else code))

    # --- the journal --------------------------------------------------------------------------
    def _commit(self, effects: tuple[Effect, ...]) -> Unrecorded | None:
        rows = [effect.row for effect in effects if isinstance(effect, Record)]
        keys = [effect.key for effect in effects if isinstance(effect, Forget)]
        if not rows and not keys:
            return None
        try:
            self._journal.commit(rows, keys)
        except StorageError as error:
            self._complain(error)
            return Unrecorded(tuple(row.key for row in rows), tuple(keys))
        return None

    def _restore(self) -> None:
        """Resume what the journal holds."""
        try:
            rows = self._journal.load()
        except StorageError as error:
            self._complain(error)
            self._handle(Unrecorded())
            return
        self._restored = True
        if rows:
            log.info("the journal holds %d prompts", len(rows))
        self._handle(Restored(rows))

    def _complain(self, error: StorageError) -> None:
        if not self._complained:
            log.warning("no prompt is taken until there is storage: %s: %s", error.what, error.why)
        self._complained = True

    def _check_storage(self) -> None:
        if not self._restored:
            self._restore()
            if not self._restored:
                return
        else:
            try:
                self._journal.check()
            except StorageError:
                return
        log.info("the journal can be written again")
        self._complained = False
        self._handle(StorageBack())
