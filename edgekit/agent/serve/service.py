"""The agent's parent process: carries events to the session and performs its effects.

One loop on one thread; the MQTT client's network thread and a reader thread for the worker's pipe
only put events into its queue.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.agent.serve.events import (
    Ack,
    Connected,
    Controlled,
    Drain,
    Effect,
    Event,
    Exit,
    Publish,
    Received,
    Spawn,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.agent.serve.pipe import FromWorker, Pipe, PipeClosedError, Ready
from edgekit.agent.serve.session import Session, status_message
from edgekit.core import wire
from edgekit.core.config import AgentConfig
from edgekit.core.manifest import BundleConfig
from edgekit.errors import EdgekitError
from edgekit.mqtt import MqttClient
from edgekit.store import publish

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
WORKER_EXIT_SECONDS = 5.0  # from the end of its pipe to SIGKILL
MAX_EVENTS = 10_000
MAX_FAILED_LOADS = 2  # then the agent ends: a trial goes back at once, else the supervisor waits


class Service:
    """Serves one release until SIGTERM.

    Args:
        config: this device.
        bundle: the release's config.
        release: its digest.
        model_dir: its model folder.
        ready_file: written once the model has answered and the broker has subscribed us.
        version: of the agent, for the card.
    """

    def __init__(
        self,
        config: AgentConfig,
        bundle: BundleConfig,
        release: str,
        model_dir: Path,
        ready_file: Path,
        version: str,
    ) -> None:
        self._config = config
        self._bundle = bundle
        self._model_dir = model_dir
        self._release = release
        self._ready_file = ready_file
        epoch = time.time() - time.monotonic()
        self._session = Session(config, bundle, release, version, epoch)
        self._events: queue.Queue[Event] = queue.Queue(MAX_EVENTS)
        self._worker: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe[FromWorker] | None = None
        self._respawn_at: float | None = None
        self._model: Ready | None = None
        self._failed_loads = 0
        self._online = False
        self._running = True
        requests = wire.request_topic(config.device, "+")
        controls = wire.control_topic(config.device, "+")
        self._controls = controls[:-1]
        self._mqtt = MqttClient(
            config.broker,
            f"edgekit-{config.device}",
            subscriptions=[(requests, 1), (controls, 0)],
            on_message=self._received,
            on_connection=self._connection,
            will=status_message(config.device, wire.Status("lost", release)),
            manual_ack=True,
        )

    def run(self) -> None:
        """Serve; returns when everything is drained."""
        self._ready_file.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._drain())
        self._spawn()
        try:
            while self._running:
                self._handle(self._next_event())
        finally:
            self._ready_file.unlink(missing_ok=True)
            if self._online:
                self._mqtt.close()
            self._stop_worker()

    # --- events in ----------------------------------------------------------------------------
    def _next_event(self) -> Event:
        try:
            event = self._events.get(timeout=TICK_SECONDS)
        except queue.Empty:
            event = Tick()
        if self._respawn_at is not None and time.monotonic() >= self._respawn_at:
            self._spawn()
        if isinstance(event, Ready):
            log.info("model ready: load %.0f ms, warm-up %.0f ms", event.load_ms, event.warm_up_ms)
            self._model = event
            if not self._online:
                # Subscribed only now: a prompt is not taken before it can be answered.
                self._online = True
                self._mqtt.start()
        if isinstance(event, Connected):
            self._say_ready()
        if isinstance(event, WorkerLost) and self._model is None:
            self._failed_loads += 1
            if self._failed_loads == MAX_FAILED_LOADS:
                raise EdgekitError(
                    f"the model process ended {MAX_FAILED_LOADS} times before it had answered"
                )
        return event

    def _received(self, message: wire.Inbound) -> None:
        kind = Controlled if message.topic.startswith(self._controls) else Received
        self._events.put(kind(message))

    def _connection(self, up: bool) -> None:
        log.info("broker %s: %s", self._config.broker, "subscribed" if up else "connection lost")
        if up:
            self._events.put(Connected())

    def _drain(self) -> None:
        # A signal handler runs on the main thread, which may hold the queue's lock.
        deadline = time.monotonic() + self._config.drain_seconds
        threading.Thread(target=self._events.put, args=(Drain(deadline),), daemon=True).start()

    def _say_ready(self) -> None:
        state = {"release": self._release, "pid": os.getpid(), "model": self._model}
        publish(self._ready_file, msgspec.json.encode(state))

    def _handle(self, event: Event) -> None:
        try:
            effects = self._session.handle(event, time.monotonic())
        except Exception:  # a defect met by one prompt must not cost the others
            log.exception("the session failed on %s", type(event).__name__)
            return
        self._perform(effects)

    # --- effects out --------------------------------------------------------------------------
    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Publish(message):
                    if self._online:
                        self._mqtt.publish(message)
                case Ack(token):
                    self._mqtt.ack(token)
                case ToWorker(message):
                    # A worker that is gone is noticed by the reader thread.
                    with suppress(PipeClosedError):
                        if self._pipe is not None:
                            self._pipe.send(message)
                case Spawn(after_seconds):
                    self._respawn_at = time.monotonic() + after_seconds
                case Exit():
                    self._running = False

    # --- the worker ---------------------------------------------------------------------------
    def _spawn(self) -> None:
        self._respawn_at = None
        self._stop_worker()
        ours, theirs = socket.socketpair()
        with theirs:
            self._worker = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent", "worker"),
                    *("--descriptor", str(theirs.fileno()), "--model", str(self._model_dir)),
                    *("--max-length", str(self._bundle.context_length)),
                    *("--threads", str(self._config.threads)),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._pipe = Pipe(ours, FromWorker)
        threading.Thread(target=self._read, args=(self._pipe, self._worker), daemon=True).start()

    def _read(self, pipe: Pipe[FromWorker], worker: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                message = pipe.receive()
                if message is not None:
                    self._events.put(message)
        except PipeClosedError:
            try:
                code = worker.wait(WORKER_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                code = worker.wait()
            log.warning("model process %d ended with %d", worker.pid, code)
            if pipe is self._pipe and self._running:
                self._events.put(WorkerLost())

    def _stop_worker(self) -> None:
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            with suppress(OSError):
                pipe.sock.shutdown(socket.SHUT_RDWR)
            pipe.sock.close()
        if self._worker is not None:
            try:
                self._worker.wait(WORKER_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
