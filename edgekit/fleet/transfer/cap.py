"""Bandwidth caps: how fast bytes may leave for one device, and for all of them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.1  # what may leave at once after a silence


class Cap:
    """A token bucket; threads share one.

    Args:
        mbit_per_second: million bits per second; 0 caps nothing.
        inside: a wider cap that the same bytes count against, too.
        clock: seconds that never go back.
        sleep: waits.
    """

    def __init__(
        self,
        mbit_per_second: float = 0.0,
        inside: Cap | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = mbit_per_second * 1e6 / 8
        self._inside = inside
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = clock()

    def take(self, count: int) -> None:
        """Wait until `count` bytes may leave."""
        if self._inside is not None:
            self._inside.take(count)
        if not self._rate:
            return
        with self._lock:  # those that wait are served in the order in which they came
            now = self._clock()
            begin = max(self._paid_until, now - BURST_SECONDS)
            self._paid_until = begin + count / self._rate
            wait = self._paid_until - now
        if wait > 0:
            self._sleep(wait)
