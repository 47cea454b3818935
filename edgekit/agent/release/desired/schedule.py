"""When the supervisor starts the updater of a device that pulls: when its desired state changes.

A broker may send as many desired states as it likes. However many come, the updater is started at
most `BURST` times, and after that once in `REFILL_SECONDS`; after a start that ended badly it waits
longer each time, up to an hour, spread by chance: thousands of devices lose one registry together.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgekit.agent.release.log import say

BURST = 6
REFILL_SECONDS = 60.0
RETRY_SECONDS = 15.0
MOST_RETRY_SECONDS = 3600.0
STOP_SECONDS = 5.0


class Follow:
    """Starts the updater; part of the supervisor.

    Args:
        start: starts the verb `update` and returns its process.
        desired: the file whose change is a reason to start it.
        now: monotonic seconds.
        draw: uniform in [0, 1).
        ended: called when the updater has ended, however it did.
    """

    def __init__(
        self,
        start: Callable[[], subprocess.Popen[bytes]],
        desired: Path,
        now: float,
        draw: Callable[[], float] = random.random,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._start, self._desired, self._draw, self._told = start, desired, draw, ended
        self._child: subprocess.Popen[bytes] | None = None
        self._seen: tuple[int, int] | None = None  # the file at the last start
        self._tokens, self._filled = float(BURST), now
        self._failures = 0
        self._retry_at: float | None = None

    def tick(self, now: float) -> None:
        """Start the updater if there is a reason, and if it may run again."""
        if self._child is not None:
            if self._child.poll() is None:
                return
            self._ended(self._child.returncode, now)
        found = self._file()
        due = self._retry_at is not None and now >= self._retry_at
        waits = self._retry_at is not None and self._failures > 1
        if found is None or not (due or (found != self._seen and not waits)):
            return
        self._tokens = min(self._tokens + (now - self._filled) / REFILL_SECONDS, float(BURST))
        self._filled = now
        if self._tokens < 1:
            return
        self._tokens -= 1
        self._seen, self._retry_at = found, None
        try:
            self._child = self._start()
        except OSError as error:
            say(f"the updater does not start: {error}")
            self._ended(1, now)

    def again(self) -> None:
        """The device has changed by itself: the updater shall look, and report it."""
        self._seen = None

    def end(self) -> None:
        """End an updater that runs; what it does bears a kill."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._child is not None:
            self._told()
        self._child = None

    def _ended(self, code: int, now: float) -> None:
        self._child = None
        self._told()
        if code == 0:
            self._failures, self._retry_at = 0, None
            return
        wait = min(RETRY_SECONDS * 2**self._failures, MOST_RETRY_SECONDS)
        self._retry_at = now + wait * (0.5 + self._draw())
        self._failures += 1

    def _file(self) -> tuple[int, int] | None:
        try:
            stat = self._desired.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size
