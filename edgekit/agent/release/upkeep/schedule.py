"""When the supervisor starts the upkeep of the disk: ten minutes after its start, then every 6 h.

The upkeep itself (`upkeep`) is a process of its own, so that the supervisor stays small.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from edgekit.agent.release.log import say

FIRST_SECONDS = 600.0
EVERY_SECONDS = 6 * 3600.0
STOP_SECONDS = 5.0


class Upkeep:
    """Starts the child when it is time; part of the supervisor.

    Args:
        start: starts the verb `upkeep` and returns its process.
        now: monotonic seconds.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], now: float) -> None:
        self._start = start
        self._next = now + FIRST_SECONDS
        self._child: subprocess.Popen[bytes] | None = None

    def tick(self, now: float) -> None:
        """Start the child if it is time and none runs; a child that cannot start is no failure."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        if self._child is None and now >= self._next:
            self._next = now + EVERY_SECONDS
            try:
                self._child = self._start()
            except OSError as error:
                say(f"the disk is not looked after: {error}")

    def end(self) -> None:
        """End a child that runs; what it does bears a kill."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._child = None
