"""Holds devices for a rollout: who says so to them, for how long, and how it waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from edgekit.core.lease import LEASE_SECONDS, MOST_LEASE_SECONDS, LeaseWish
from edgekit.errors import EdgekitError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.held import LeaseHeldError
from edgekit.fleet.rollout.windows.window import parse_window

POLL_SECONDS = 3.0  # between two questions whether another one has ended
_T = TypeVar("_T")


@dataclass(frozen=True)
class Lease:
    """What a rollout says to each device that it works on.

    Attributes:
        wish: who wants the device, and for what.
        windows: of the plan: a staged device is held until its window opens.
        wait_seconds: how long a device that another one holds is waited for.
        keeps: whether it holds a device on after the bytes are there.
        ended: set by whoever wants the waiting to end.
        head: of the rollout's journal, which a device keeps.
    """

    wish: LeaseWish
    windows: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    keeps: bool = True
    ended: threading.Event = field(default_factory=threading.Event)
    head: Callable[[], str] = str
    _had: set[str] = field(default_factory=set)

    def of(self, device: str) -> LeaseWish:
        """The wish for one device, from now on; what was taken once is not taken over again."""
        seconds = lease_seconds(self.windows.get(device, ""), time.time())
        take_over = self.wish.take_over and device not in self._had
        head = self.head()
        return msgspec.structs.replace(self.wish, seconds=seconds, take_over=take_over, head=head)

    def had(self, device: str) -> None:
        """Note that a device was taken."""
        self._had.add(device)

    def take(self, driver: DeviceDriver) -> None:
        """Take a device, unless this connection has taken it before.

        Raises:
            LeaseHeldError: another one holds it, or took it over.
        """
        if not driver.leased:
            driver.take_lease(self.of(driver.name))
            self.had(driver.name)

    def give(self, driver: DeviceDriver) -> None:
        """Give a device back whose work is over; one that does not answer keeps it for a while."""
        if driver.leased:
            with suppress(EdgekitError):
                driver.give_lease(self.wish.id)

    def waiting(self, act: Callable[[], _T], say: Callable[[str], None]) -> _T:
        """Act again and again while another one holds the device, for `wait_seconds` at most.

        Raises:
            LeaseHeldError: it is held after that; or another one took it over from us.
        """
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                return act()
            except LeaseHeldError as error:
                left = deadline - time.monotonic()
                if error.answer.taken_over_by or left <= 0 or self.ended.is_set():
                    raise
                say(f"waits for {error.answer.lease}, {left:.0f} s at most")
                self.ended.wait(min(POLL_SECONDS, left))


def lease_seconds(window: str, now: float) -> float:
    """How long a device is held that has this window; empty: none. Pure."""
    opens = None
    if window and not (parsed := parse_window(window)).is_open(now):
        opens = parsed.next_change(now)
    return min((opens or now) - now + LEASE_SECONDS, MOST_LEASE_SECONDS)
