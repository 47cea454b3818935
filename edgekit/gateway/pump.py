"""Drives a polled MQTT client on an asyncio event loop, so that messages cross no thread.

A thread of paho's costs two hand-overs between threads for each message, and both threads want the
same interpreter lock.
"""

from __future__ import annotations

import asyncio
import select
import time

from edgekit.mqtt.polled import PolledClient

TICK_SECONDS = 0.5


class Pump:
    """One client's; `watch` follows each call that may change what the client waits for.

    Made and used on a running event loop.
    """

    def __init__(self, client: PolledClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._watched: tuple[int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect in the background, and again after each loss."""
        self._client.start()
        self._tick()

    def stop(self) -> None:
        """Let go of the descriptor."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch(None)

    def watch(self) -> None:
        """Wait for what the client waits for now.

        A closed descriptor must not stay with the loop: its number may come back as another's.
        """
        self._watch(self._client.interest())

    def _watch(self, interest: tuple[int, int] | None) -> None:
        if interest == self._watched:
            return
        if self._watched is not None:
            self._loop.remove_reader(self._watched[0])
            self._loop.remove_writer(self._watched[0])
        if interest is not None:
            descriptor, events = interest
            self._loop.add_reader(descriptor, self._ready, select.POLLIN)
            if events & select.POLLOUT:
                self._loop.add_writer(descriptor, self._ready, select.POLLOUT)
        self._watched = interest

    def _ready(self, events: int) -> None:
        self._client.ready(events)
        self.watch()

    def _tick(self) -> None:
        self._client.tick(time.monotonic())
        self.watch()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
