"""What a device does for its disk by itself: it collects garbage, and scrubs once a week.

The supervisor starts a child for it, ten minutes after the release became good and every six hours
from then on. The child has the lowest priorities. It takes the update lock for one removal at a
time; a push or another verb that comes waits for that and is not refused.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from edgekit.agent.release import lease
from edgekit.agent.release.collect import collect
from edgekit.agent.release.log import say
from edgekit.agent.release.quiet import BYTES_PER_SECOND, be_quiet
from edgekit.agent.release.root import Root
from edgekit.agent.release.scrub import is_due, last, scrub
from edgekit.errors import EdgekitError

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


def keep_up(root: Root) -> None:
    """Do what is due; the child's whole work. What is at work meanwhile comes first."""
    be_quiet()
    try:
        freed = collect_in_steps(root)
        if freed:
            say(f"collected {freed:,} bytes that no release needs")
        before = last(root)
        if (before is not None and before.position) or is_due(before, time.time()):
            done = scrub(root, BYTES_PER_SECOND)
            for each in done.found:
                if each.at >= done.started:
                    say(f"damaged: {each.kind} {each.digest.short}: {each.what}; {each.done}")
    except EdgekitError as error:
        say(f"the disk is looked after later: {error.what}")


def collect_in_steps(root: Root) -> int:
    """Collect one thing at a time while no push is at work; return the bytes that were freed.

    Raises:
        EdgekitError: another verb holds the update lock.
    """
    freed = 0
    while True:
        with root.updating(yields=True):
            if lease.is_held(root):
                return freed
            done = collect(root, most=1)
        freed += done.freed
        if not done.pieces:
            return freed
