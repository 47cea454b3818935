"""What each row of a rollout's journal changed, and how long everything stayed as it was. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    PauseOrdered,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEvent,
)
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import RolloutPlan


class DeviceChanged(msgspec.Struct, frozen=True, tag_field="change", tag="device"):
    """A device has moved to another state; `reason` says why it failed or is away."""

    at: float
    device: str
    before: DeviceState
    after: DeviceState
    reason: str = ""


class PhaseChanged(msgspec.Struct, frozen=True, tag_field="change", tag="phase"):
    """The rollout has moved to another phase; `reason` says why it is paused."""

    at: float
    before: RolloutPhase
    after: RolloutPhase
    reason: str = ""


class WaveBegan(msgspec.Struct, frozen=True, tag_field="change", tag="wave"):
    """A wave, counted from 1, is the present one."""

    at: float
    wave: int


class OrderGiven(msgspec.Struct, frozen=True, tag_field="change", tag="order"):
    """Somebody ordered something; it may have changed nothing."""

    at: float
    order: str
    by: str
    reason: str = ""


RolloutChange = DeviceChanged | PhaseChanged | WaveBegan | OrderGiven


class Follower:
    """Replays a rollout row by row and says what each row changed.

    Args:
        plan: of the rollout.
    """

    def __init__(self, plan: RolloutPlan) -> None:
        self.rollout = Rollout(plan)
        self._states = {name: device.state for name, device in self.rollout.devices.items()}
        self._phase, self._wave = self.rollout.phase, self.rollout.wave
        self._begun = False

    def take(self, row: RolloutRow) -> list[RolloutChange]:
        """Let the rollout take the next row."""
        rollout, at = self.rollout, row.at
        changes: list[RolloutChange] = [*_order(row.event, at)]
        rollout.handle(row.event, at)
        if rollout.phase != self._phase:
            reason = rollout.reason if rollout.phase == RolloutPhase.PAUSED else ""
            changes.append(PhaseChanged(at, self._phase, rollout.phase, reason))
            self._phase = rollout.phase
        if rollout.wave != self._wave or (not self._begun and rollout.phase != "planned"):
            self._begun, self._wave = True, rollout.wave
            changes.append(WaveBegan(at, rollout.wave + 1))
        for name, device in rollout.devices.items():
            if device.state != self._states[name]:
                before, self._states[name] = self._states[name], device.state
                changes.append(DeviceChanged(at, name, before, device.state, device.reason))
        return changes


class TimeSegment(msgspec.Struct, frozen=True):
    """For how long something was as it was; Unix seconds.

    Attributes:
        what: a device's state, a phase, or the number of a wave.
        reason: why, where there is one.
    """

    what: str
    since: float
    until: float
    reason: str = ""


class Timeline(msgspec.Struct, frozen=True):
    """A rollout over time.

    Attributes:
        begin, end: Unix seconds.
        phases, waves: one after the other.
        devices: of each device its states, one after the other.
        members: the devices of each wave, as they were at the end.
        orders: what people and programs ordered.
        changes: what each row of the journal changed.
        times: of all rows.
    """

    begin: float
    end: float
    phases: list[TimeSegment]
    waves: list[TimeSegment]
    devices: dict[str, list[TimeSegment]]
    members: list[list[str]]
    orders: list[OrderGiven]
    changes: list[list[RolloutChange]]
    times: list[float]


def timeline(follower: Follower, rows: Sequence[RolloutRow], now: float) -> Timeline:
    """Replay a journal into spans.

    Args:
        follower: takes the rows; it has taken none yet.
        rows: all of a journal.
        now: where the spans of a rollout end that is not over.
    """
    begin = rows[0].at if rows else now
    phases = _Track(RolloutPhase.PLANNED, begin)
    waves = _Track("", begin)
    devices = {name: _Track(DeviceState.WAITING, begin) for name in follower.rollout.devices}
    orders: list[OrderGiven] = []
    changes = [follower.take(row) for row in rows]
    for changed in changes:
        for change in changed:
            match change:
                case DeviceChanged(at, device, _, after, reason):
                    devices[device].change(after, at, reason)
                case PhaseChanged(at, _, after, reason):
                    phases.change(after, at, reason)
                case WaveBegan(at, wave):
                    waves.change(str(wave), at)
                case OrderGiven():
                    orders.append(change)
    last = rows[-1].at if rows else now
    end = last if follower.rollout.over and rows else max(now, last)
    return Timeline(
        begin,
        end,
        phases.ended(end),
        [span for span in waves.ended(end) if span.what],
        {name: track.ended(end) for name, track in devices.items()},
        follower.rollout.waves,
        orders,
        changes,
        [row.at for row in rows],
    )


class _Track:
    """Spans that grow."""

    def __init__(self, what: str, since: float) -> None:
        self._spans: list[TimeSegment] = []
        self._now = (what, since, "")

    def change(self, what: str, at: float, reason: str = "") -> None:
        before, since, why = self._now
        if at > since:
            self._spans.append(TimeSegment(before, since, at, why))
        self._now = (what, at, reason)

    def ended(self, at: float) -> list[TimeSegment]:
        """All spans; what it became at the very end is the last one, even if it lasted no time."""
        what, since, reason = self._now
        return [*self._spans, TimeSegment(what, since, at, reason)]


def _order(event: RolloutEvent, at: float) -> list[OrderGiven]:
    match event:
        case PauseOrdered(by, reason):
            return [OrderGiven(at, "pause", by, reason)]
        case ResumeOrdered(by, retry):
            return [OrderGiven(at, "resume", by, "failed devices again" if retry else "")]
        case AbortOrdered(by):
            return [OrderGiven(at, "abort", by)]
        case RollbackOrdered(by):
            return [OrderGiven(at, "rollback", by)]
    return []
