"""The agent's parent process: carries events to the session and performs its effects.

One loop on one thread; the MQTT client's network thread and a reader thread for the worker's pipe
only put events into its queue.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import msgspec

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
from edgekit.agent.serve.measure import measured
from edgekit.agent.serve.notify import Notifier
from edgekit.agent.serve.pipe import Ready
from edgekit.agent.serve.process import ModelProcess
from edgekit.agent.serve.replies import status_message
from edgekit.agent.serve.session import Session
from edgekit.core import wire
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.errors import EdgekitError, TakenOverError
from edgekit.mqtt import LOST, MqttClient
from edgekit.store import publish

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
MEASURE_SECONDS = 5.0  # a device gets hot within seconds
FLUSH_SECONDS = 4.0  # for the last PUBACKs when the agent ends
WILL_DELAY_SECONDS = 10
MAX_EVENTS = 128  # a prompt may have 128 KiB
MAX_PACKET_BYTES = (
    2 * wire.MAX_BODY_BYTES
)  # a larger one is not answered by 413, the broker drops it
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
        self._events: queue.Queue[Event | None] = queue.Queue(MAX_EVENTS)
        # Of this thread, which must not wait for itself, and of a PUBACK's, which holds paho's lock
        # that this thread may wait for.
        self._own_events: deque[Event] = deque()
        self._tick_at = 0.0
        self._worker = ModelProcess(
            [
                *("--model", str(model_dir), "--max-length", str(bundle.context_length)),
                *("--threads", str(config.threads), "--slots", str(config.slots)),
                *("--release", release, "--tuning", str(tuning_file)),
                *("--max-beams", str(config.max_beams)),
                *("--batching", str(int(config.batching))),
                *("--tune-seconds", str(config.trial_seconds * TUNE_SHARE)),
            ],
            on_message=self._events.put,
            on_end=lambda: self._events.put(WorkerLost()),
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
        self._pools = [wire.pool_filter(pool) for pool in config.pools]
        requests = [wire.request_topic(config.device, "+"), *self._pools]
        controls = [wire.control_topic(config.device, "+")]
        controls += [wire.pool_control_topic(pool, "+") for pool in config.pools]
        self._mqtt = MqttClient(
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
        self._handle(Disconnected())
        self._restore()
        self._worker.start()
        try:
            while self._running:
                event = self._next_event()
                self._handle(event)
                if isinstance(event, Tick):
                    alive = not self._online or self._mqtt.network_alive
                    self._health.tick(time.monotonic(), network_alive=alive, answers=self._answers)
        finally:
            self._running = False
            self._ready_file.unlink(missing_ok=True)
            if self._online:
                self._mqtt.close(FLUSH_SECONDS)
                self._online = False
            self._note_last_pubacks()
            self._journal.close()
            self._worker.stop()

    # --- events in ----------------------------------------------------------------------------
    def _next_event(self) -> Event:
        event: Event | None = None
        while event is None:
            if self._own_events:
                return self._own_events.popleft()
            event = self._wait()
        now = time.monotonic()
        if self._taken_over:
            raise TakenOverError(
                f"another client connected to {self._config.broker} as {self._config.device}",
                "the broker ended this connection with reason code 0x8E, Session taken over",
                "give one of the two devices another name, then push to it",
            )
        if self._respawn_at is not None and now >= self._respawn_at:
            self._respawn_at = None
            self._worker.start()
        if self._say_ready_again:
            self._say_ready()
        if isinstance(event, Tick) and now >= self._measure_at:
            self._measure_at = now + MEASURE_SECONDS
            self._own_events.append(measured(disk=self._disk))
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
        return event

    def _wait(self) -> Event | None:
        """What comes next, or a `Tick` when it is time; None: there is an event of our own."""
        now = time.monotonic()
        if now < self._tick_at:  # else at once: while answers stream there is always another event
            with suppress(queue.Empty):
                return self._events.get(timeout=self._tick_at - now)
        self._tick_at = time.monotonic() + TICK_SECONDS
        return Tick()

    def _received(self, message: wire.Inbound) -> None:
        self._offer((Controlled if wire.is_control(message.topic) else Received)(message))

    def _connection(self, up: bool) -> None:
        log.info("broker %s: %s", self._config.broker, "subscribed" if up else "connection lost")
        self._offer(Connected() if up else Disconnected())

    def _offer(self, event: Event) -> None:
        """Wait for room, but not for ever: at the end the network thread is waited for."""
        while self._running:
            with suppress(queue.Full):
                self._events.put(event, timeout=TICK_SECONDS)
                return

    def _take_over(self) -> None:
        self._taken_over = True

    def _drain(self) -> None:
        # A signal handler runs on the main thread, which may hold the queue's lock.
        deadline = time.monotonic() + self._config.drain_seconds
        threading.Thread(target=self._events.put, args=(Drain(deadline),), daemon=True).start()

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
        while self._own_events:
            event = self._own_events.popleft()
            if isinstance(event, Published):
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
        self._own_events.append(Published(effect, None if code == LOST else code))
        if threading.current_thread() is not threading.main_thread():
            with suppress(queue.Full):  # then it is not waiting either
                self._events.put_nowait(None)

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
