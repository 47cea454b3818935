"""Waits of the agent's one loop: for descriptors and for signals."""

from __future__ import annotations

import math
import os
import select
import signal
from collections.abc import Iterable
from typing import Protocol

SIGNAL_BYTES = 4096
HAND_OVER = signal.SIGUSR1  # ends an agent as SIGTERM does, but another agent takes its place


class Pollable(Protocol):
    """A source of events outside of the loop, with a file descriptor."""

    def interest(self) -> tuple[int, int] | None:
        """Return the descriptor and the poll(2) events to wait for, or None for neither."""

    def ready(self, events: int) -> None:
        """Handle the `events` that poll(2) reported, which may be an error."""


def wait(sources: Iterable[Pollable], seconds: float) -> None:
    """Wait until a source has an event, for at most `seconds`; call `ready` of each that has."""
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
    """Ends a wait after a signal, once its handler has run.

    Python resumes poll(2) itself after a signal (PEP 475).
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def close(self) -> None:
        """Stop watching signals."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def interest(self) -> tuple[int, int]:
        """See `Pollable`."""
        return self._read, select.POLLIN

    def ready(self, _events: int) -> None:
        """See `Pollable`."""
        os.read(self._read, SIGNAL_BYTES)
