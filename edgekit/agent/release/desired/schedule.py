"""When the supervisor starts the updater of a device that pulls: when its desired state changes.

A broker may send as many desired states as it likes. However many come, the updater is started at
most `BURST` times, and after that once in `REFILL_SECONDS`; after a start that ended badly it waits
longer each time, up to an hour, spread by chance: thousands of devices lose one registry together.

A desired state that changes in such a wait is looked at at once, and one that changes while the
updater runs ends it: what it brings is not wanted any more. The parts that it has stay. That
happens `CHANGES` times, and after that once in `CHANGE_SECONDS`.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgekit.agent.release.log import say

BURST = 6
REFILL_SECONDS = 60.0
CHANGES = 3
CHANGE_SECONDS = 3600.0
RETRY_SECONDS = 15.0
MOST_RETRY_SECONDS = 3600.0
STOP_SECONDS = 5.0


class _Budget:
    """May be spent `most` times at once, and after that once in `seconds`."""

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self._most, self._seconds = float(most), seconds
        self._left, self._at = self._most, now

    def has(self, now: float) -> bool:
        """Whether it may be spent."""
        self._left = min(self._left + (now - self._at) / self._seconds, self._most)
        self._at = now
        return self._left >= 1

    def spend(self) -> None:
        """Spend it once."""
        self._left -= 1


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
        self._seen: tuple[int, int] | None = None  # the file at the last start, or none by `again`
        self._of: tuple[int, int] | None = None  # the file at the last start
        self._starts = _Budget(BURST, REFILL_SECONDS, now)
        self._changes = _Budget(CHANGES, CHANGE_SECONDS, now)
        self._failures = 0
        self._retry_at: float | None = None

    def tick(self, now: float) -> None:
        """Start the updater if there is a reason, and if it may run again."""
        found = self._file()
        if self._child is not None:
            if self._child.poll() is not None:
                self._ended(self._child.returncode, now)
            elif found != self._of and self._changes.has(now):
                self._changes.spend()
                self.end()
            else:
                return
        due = self._retry_at is not None and now >= self._retry_at
        if found is None or not (due or found != self._seen) or not self._starts.has(now):
            return
        if self._retry_at is not None and self._failures > 1 and not due:
            if found == self._of or not self._changes.has(now):
                return
            self._changes.spend()
        self._starts.spend()
        self._seen, self._of, self._retry_at = found, found, None
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
