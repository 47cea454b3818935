"""The devices of a rollout by state and by wave, so that no event looks at every device. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgekit.fleet.rollout.device import ENDED, DeviceProgress, DeviceState, Move
from edgekit.fleet.rollout.events import AskVerdict, GoBackOn, RolloutEffect, StageOn


@dataclass
class Roster:
    """How each device stands; every move goes through it.

    Attributes:
        waves: names of devices.
        stage_only: a device that is staged needs nothing more.
        devices: how each stands.
    """

    waves: list[list[str]]
    stage_only: bool = False
    devices: dict[str, DeviceProgress] = field(init=False)
    _in: dict[DeviceState, dict[str, None]] = field(init=False)
    _place: dict[str, tuple[int, int]] = field(init=False)  # wave, and place in it
    _waiting: list[tuple[tuple[int, int], str]] = field(init=False)  # heap; some wait no more
    _unended: list[int] = field(init=False)  # of each wave
    _ended: frozenset[DeviceState] = field(init=False)  # a wave need not wait for these

    @property
    def brought(self) -> tuple[DeviceState, ...]:
        """States of devices that have what the rollout brings."""
        return (DeviceState.GOOD, *((DeviceState.STAGED,) if self.stage_only else ()))

    def __post_init__(self) -> None:
        self._ended = frozenset((*ENDED, *self.brought))
        names = [name for wave in self.waves for name in wave]
        self.devices = {name: DeviceProgress() for name in names}
        self._in = {state: {} for state in DeviceState}
        self._in[DeviceState.WAITING] = dict.fromkeys(names)
        self._order()

    def _order(self) -> None:
        """Find the places anew."""
        self._place = {
            name: (number, place)
            for number, wave in enumerate(self.waves)
            for place, name in enumerate(wave)
        }
        self._waiting = sorted((self._place[name], name) for name in self._in[DeviceState.WAITING])
        self._unended = [
            sum(self.devices[name].state not in self._ended for name in wave) for wave in self.waves
        ]

    def move(self, name: str, move: Move, now: float, reason: str = "") -> bool:
        """Move a device along the table; whether it has such a move."""
        device = self.devices[name]
        before = device.state
        if not device.move(move, now, reason):
            return False
        del self._in[before][name]
        self._in[device.state][name] = None
        place = self._place[name]
        self._unended[place[0]] += (device.state not in self._ended) - (before not in self._ended)
        if device.state == DeviceState.WAITING:
            heapq.heappush(self._waiting, (place, name))
        return True

    def replace(self, name: str, other: str) -> None:
        """Take `other` into the wave of `name`; a wave that is empty then is gone."""
        self.waves[self._place[other][0]].remove(other)
        self.waves[self._place[name][0]].append(other)
        self.waves[:] = [wave for wave in self.waves if wave]
        self._order()

    def stand_in(self, name: str, kinds: Mapping[str, str]) -> str | None:
        """A device of a later wave that is of the same class; None: there is none, or one that is
        not away stands in its wave already."""
        wave = self.wave_of(name)
        here = (self.devices[n].state for n in self.waves[wave] if kinds[n] == kinds[name])
        if any(state != DeviceState.AWAY for state in here):
            return None
        later = (other for wave in self.waves[wave + 1 :] for other in wave)
        return next((other for other in later if kinds[other] == kinds[name]), None)

    def shift(self, seconds: float) -> None:
        """Move all times, because the clock was set by so much."""
        for device in self.devices.values():
            device.since += seconds if device.since else 0.0
            device.due += seconds if device.due else 0.0

    def count(self, states: Iterable[DeviceState]) -> int:
        """How many devices are in one of these states."""
        return sum(len(self._in[state]) for state in states)

    def counts(self) -> dict[DeviceState, int]:
        """How many devices are in each state; only those that are not 0."""
        return {state: len(names) for state, names in self._in.items() if names}

    def names(self, *states: DeviceState) -> list[str]:
        """Devices in one of these states, by wave and place."""
        return sorted(self.unsorted(*states), key=lambda name: self._place[name])

    def unsorted(self, *states: DeviceState) -> list[str]:
        """Devices in one of these states, as they came into them."""
        return [name for state in states for name in self._in[state]]

    def wave_of(self, name: str) -> int:
        """The wave of a device, from 0."""
        return self._place[name][0]

    def is_ended(self, wave: int) -> bool:
        """Whether a wave need not wait for any of its devices."""
        return not self._unended[wave]

    def next_waiting(self, waves: int) -> str | None:
        """The first device of the first `waves` waves that waits."""
        while self._waiting:
            place, name = self._waiting[0]
            if self.devices[name].state == DeviceState.WAITING and self._place[name] == place:
                return name if place[0] < waves else None
            heapq.heappop(self._waiting)
        return None

    def outstanding(self) -> list[RolloutEffect]:
        """What was asked of devices and has not ended."""
        found: list[RolloutEffect] = []
        for name, device in self.devices.items():
            match device.state:
                case DeviceState.STAGING:
                    found.append(StageOn(name))
                case DeviceState.SWITCHING:  # the device may have judged it by itself
                    found.append(AskVerdict(name, 0.0))
                case DeviceState.SOAKING:
                    found.append(AskVerdict(name, device.due))
                case DeviceState.GOING_BACK:
                    found.append(GoBackOn(name, device.before))
        return found
