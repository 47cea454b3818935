"""Looks at many devices at once: a bounded number of connections, each with a deadline.

A thread that hangs in a connection cannot be ended. So after its deadline its connection is
closed, which ends most waits, the device is reported as unreachable, and the thread's place goes to
the next device. All threads are daemons: a command never waits for one in order to end.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet import drive, inventory
from edgekit.fleet.connections import Connections
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.link.local import Remote
from edgekit.fleet.places import Places, shared

PARALLEL = 30
DEADLINE_SECONDS = 60.0
T = TypeVar("T")
Report = Callable[[int, int], None]  # how many devices are done, of how many


def survey(
    fleet: inventory.Fleet,
    names: Sequence[str],
    look: Callable[[DeviceDriver], T],
    report: Report = lambda done, of: None,
    parallel: int = PARALLEL,
    seconds: float = DEADLINE_SECONDS,
    keep: Connections | None = None,
) -> dict[str, T | EdgekitError]:
    """Connect to devices and look at each one.

    Args:
        fleet: that has the devices.
        names: of the devices.
        look: is called in a thread of its own, with the driver of a device.
        report: called in this thread, with how many devices are done.
        parallel: connections at one time.
        seconds: for each device, from the start of its connection.
        keep: takes the connection of each device that was looked at; None: it is closed.

    Returns:
        What `look` returned, or the error of the device; in the order of `names`. Devices that
        are one, at one ROOT, have a SharedRootError each.
    """
    one = _Surveyor(fleet, look, keep)
    waiting, found = list(reversed(names)), {}
    begun: dict[str, float] = {}
    report(0, len(names))
    while waiting or begun:
        while waiting and len(begun) < parallel:
            name = waiting.pop()
            begun[name] = time.monotonic()
            one.begin(name)
        earliest = min(begun.values()) + seconds
        with suppress(queue.Empty):
            name, result = one.results.get(timeout=max(earliest - time.monotonic(), 0.0))
            if name in begun:  # else it was given up
                del begun[name]
                found[name] = result
        for name in [each for each, at in begun.items() if time.monotonic() - at >= seconds]:
            del begun[name]
            found[name] = _overdue(name, seconds)
            one.give_up(name)
        report(len(found), len(names))
    return {name: one.twins.get(name, found[name]) for name in names}


class _Surveyor(Generic[T]):
    """Threads that look at devices, and their open connections."""

    def __init__(
        self,
        fleet: inventory.Fleet,
        look: Callable[[DeviceDriver], T],
        keep: Connections | None,
    ) -> None:
        self.results: queue.SimpleQueue[tuple[str, T | EdgekitError]] = queue.SimpleQueue()
        self._fleet, self._look, self._keep = fleet, look, keep
        self._open: dict[str, Remote] = {}
        self._places = Places()
        self.twins: dict[str, EdgekitError] = {}

    def begin(self, name: str) -> None:
        threading.Thread(target=self._run, args=(name,), name=name, daemon=True).start()

    def give_up(self, name: str) -> None:
        """Close a connection from a thread of its own: to close may hang, too."""
        if (remote := self._open.get(name)) is not None:
            threading.Thread(target=_close, args=(remote,), daemon=True).start()

    def _run(self, name: str) -> None:
        result: T | EdgekitError
        try:
            cap = self._keep.cap(name) if self._keep else None
            driver = drive.open_device(
                self._fleet, name, cap, connected=partial(self._open.__setitem__, name)
            )
            after = driver.close
            if other := self._places.other(name, driver.facts):
                twins = shared(min(name, other), max(name, other), driver.facts.root)
                self.twins |= {name: twins, other: twins}
            try:
                result = self._look(driver)
                if self._keep is not None:
                    after = partial(self._keep.keep, driver)
            finally:
                after()
        except EdgekitError as error:
            result = error
        except Exception as error:  # a defect of ours must not look like a device that hangs
            result = EdgekitError(
                f"{name}: the look at the device failed", f"{type(error).__name__}: {error}"
            )
        self.results.put((name, result))


def _close(remote: Remote) -> None:
    with suppress(Exception):
        remote.close()


def _overdue(name: str, seconds: float) -> UnreachableError:
    return UnreachableError(
        f"{name}: the device did not answer within {seconds:g} s",
        "it accepted the connection, or its name leads somewhere, and then it said nothing more",
        "look at its load, its disk and its network, then run it again; --timeout gives it longer",
    )
