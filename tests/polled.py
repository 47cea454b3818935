"""The agent's polled connection, with a loop on a thread, used as `MqttClient` is."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from edgekit.agent.serve.loop import polling
from edgekit.core.protocol import wire
from edgekit.mqtt.polled import PolledClient

TICK_SECONDS = 0.1


class Calls:
    """A `polling.Pollable`: what another thread wants done in the loop."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._waiting = os.eventfd(0, os.EFD_CLOEXEC)

    def put(self, call: Callable[[], object]) -> None:
        self._calls.put(call)
        os.eventfd_write(self._waiting, 1)

    def interest(self) -> tuple[int, int]:
        return self._waiting, select.POLLIN

    def ready(self, _events: int) -> None:
        for _ in range(os.eventfd_read(self._waiting)):
            self._calls.get()()


class Polled:
    """Its callbacks are called on the loop's thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.link = PolledClient(*arguments, **options)
        self._client = self.link._client
        self._calls = Calls()
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._calls.put(self.link.start)

    def connect(self, _timeout_seconds: float) -> None:
        self.start()

    def publish(self, message: wire.Outbound) -> Future[int]:
        if threading.current_thread() is self._thread:
            return self.link.publish(message)
        code: Future[int] = Future()

        def publish() -> None:
            self.link.publish(message).add_done_callback(
                lambda done: code.set_result(done.result())
            )

        self._calls.put(publish)
        return code

    def ack(self, token: Any) -> None:
        self._do(lambda: self.link.ack(token))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._do(lambda: self.link.unsubscribe(filters))

    def close(self) -> None:
        if self._running:
            self._do(self.link.close)
            self.stop()

    def stop(self) -> None:
        """Be looked after no longer."""
        self._do(lambda: setattr(self, "_running", False))
        self._thread.join()

    def _do(self, call: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            call()
            done.set_result(None)

        self._calls.put(run)
        done.result(10)

    def _run(self) -> None:
        while self._running:
            polling.wait([self.link, self._calls], TICK_SECONDS)
            self.link.tick(time.monotonic())
