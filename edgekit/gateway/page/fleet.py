"""The fleet as the broker tells it, and what of it has changed since somebody looked. Pure.

Each change gets the next number. Who watches remembers the last number that it has seen, so a slow
watcher costs nothing: it gets the newest state of what changed, once.

Tokens per second over time are kept in slots of `SLOT_SECONDS`. A slot has the highest speed that
the device told while it answered, and 0 while it did not. A device tells the speed of its last
answer only, so this is how fast it answers, not how much all of its answers are together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import msgspec

from edgekit.gateway.catalog import MOST_DEVICES
from edgekit.gateway.page.told import CardTold, CountsTold, StatusTold, read

SLOT_SECONDS = 5.0
SLOTS = 120  # ten minutes
LOST = "lost"  # what a Will says


@dataclass(slots=True)
class _Known:
    """One device; times are Unix seconds."""

    card: CardTold = field(default_factory=CardTold)
    status: StatusTold = field(default_factory=StatusTold)
    counts: CountsTold | None = None
    heard: float = 0.0  # its last status; 0: not since the gateway started
    since: float = 0.0  # in this state
    exact: bool = False  # whether the gateway heard this state begin
    speeds: OrderedDict[int, float] = field(default_factory=OrderedDict)  # by slot


class Changes(msgspec.Struct, frozen=True):
    """What has changed: the devices as objects, the names of those that are gone, the number."""

    devices: list[dict[str, Any]]
    gone: list[str]
    seen: int


class FleetTold:
    """What is known of all devices; `heard` with each message, on one thread."""

    def __init__(self) -> None:
        self._devices: dict[str, _Known] = {}
        self._changed: OrderedDict[str, int] = OrderedDict()  # the latest change last
        self._number = 0

    def heard(
        self, topic: str, payload: bytes, now: float, at: int, *, retained: bool = False
    ) -> None:
        """Note a card, a status or metrics; what cannot be read changes nothing.

        Args:
            now: Unix seconds.
            at: the slot of now.
            retained: the broker kept it, so nobody knows when the device said it.
        """
        found = read(topic, payload)
        if found is None:
            return
        name, said = found
        if name not in self._devices:
            if not payload or len(self._devices) >= MOST_DEVICES:
                return
            self._devices[name] = _Known()
        device = self._devices[name]
        if isinstance(said, CardTold):
            device.card = said
        elif isinstance(said, StatusTold):
            self._note_status(device, said, now, at, retained=retained)
        else:
            device.counts = said
        if not device.card.model and not device.status.state:
            del self._devices[name]
        self._number += 1
        self._changed[name] = self._number
        self._changed.move_to_end(name)
        while len(self._changed) > 2 * MOST_DEVICES:  # names of devices that are gone
            self._changed.popitem(last=False)

    @property
    def number(self) -> int:
        """Of the last change."""
        return self._number

    def changes(self, seen: int = 0) -> Changes:
        """What has changed after that number; all devices after 0."""
        if not seen:
            return Changes([told(*each) for each in self._devices.items()], [], self._number)
        newest = takewhile(lambda each: each[1] > seen, reversed(self._changed.items()))
        names = [name for name, _ in newest]
        return Changes(
            devices=[told(name, self._devices[name]) for name in names if name in self._devices],
            gone=[name for name in names if name not in self._devices],
            seen=self._number,
        )

    def lines(self, end: int) -> dict[str, list[float]]:
        """Of each device that has answered of late: its speed in each slot before `end`."""
        found = {}
        for name, device in self._devices.items():
            line = [device.speeds.get(at, 0.0) for at in range(end - SLOTS, end)]
            if any(line):
                found[name] = line
        return found

    def speeds(self, at: int) -> dict[str, float]:
        """The speed of each device that answered in that slot."""
        return {
            name: speed
            for name, device in self._devices.items()
            if (speed := device.speeds.get(at, 0.0))
        }

    def _note_status(
        self, device: _Known, said: StatusTold, now: float, at: int, *, retained: bool
    ) -> None:
        before, device.status = device.status, said
        if said.state != before.state:
            device.since, device.exact = now, not retained and bool(before.state)
        if retained or said.state == LOST:  # the broker says so, not the device
            return
        device.heard = now
        # A short answer begins and ends between two statuses; the speed then is another one
        answers = said.active > 0 or (before.state and said.tok_s != before.tok_s)
        if answers and said.tok_s:
            device.speeds[at] = max(device.speeds.get(at, 0.0), said.tok_s)
            while len(device.speeds) > SLOTS + 1:  # and the one that has not ended
                device.speeds.popitem(last=False)


def slot(seconds: float) -> int:
    """The number of the slot of a time by `time.monotonic`: a clock that is set changes none."""
    return int(seconds // SLOT_SECONDS)


def told(name: str, device: _Known) -> dict[str, Any]:
    """A device as an object of JSON."""
    fields = {**msgspec.structs.asdict(device.card), **msgspec.structs.asdict(device.status)}
    counts = msgspec.structs.asdict(device.counts) if device.counts else None
    first = {"heard_first": device.since, "heard_begin": device.exact}  # of this state
    return {"name": name, **fields, "heard": device.heard, **first, "counts": counts}
