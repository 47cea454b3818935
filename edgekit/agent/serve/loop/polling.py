"""How the agent's one loop waits: for everything that has a descriptor, and for signals."""

from __future__ import annotations

import math
import os
import select
import signal
from collections.abc import Iterable
from typing import Protocol

SIGNAL_BYTES = 4096


class Pollable(Protocol):
    """Something that happens outside of the loop."""

    def interest(self) -> tuple[int, int] | None:
        """Its descriptor and the poll(2) events it waits for, if there is any now."""

    def ready(self, events: int) -> None:
        """One of them, or an error, is there."""


def wait(sources: Iterable[Pollable], seconds: float) -> None:
    """Until something happens, or the time is over; whoever it happened to does its part."""
    poll = select.poll()
    waiting: dict[int, Pollable] = {}
    for source in sources:
        if (interest := source.interest()) is not None:
            descriptor, events = interest
            waiting[descriptor] = source
            poll.register(descriptor, events)
    for descriptor, events in poll.poll(math.ceil(seconds * 1000)):
        waiting[descriptor].ready(events)


class Signals:
    """Ends a wait when a signal has come, whose handler has run then: poll(2) itself is gone on
    with after one (PEP 475)."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        """No longer."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def interest(self) -> tuple[int, int]:
        """As of `Pollable`."""
        return self._read, select.POLLIN

    def ready(self, _events: int) -> None:
        """As of `Pollable`."""
        os.read(self._read, SIGNAL_BYTES)
