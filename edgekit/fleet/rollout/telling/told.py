"""What `edgekit status` says of a rollout: a value made of its machine and its journal. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgekit.core.quality import QualityReport
from edgekit.fleet.rollout.device import ENDED, GONE, WORKED_ON, DeviceProgress, DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    RollbackOrdered,
    RolloutStarted,
)
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.windows.window import parse_window

_FIRST = (  # of a long table: what a person has to look at, then what moves
    DeviceState.FAILED,
    DeviceState.AWAY,
    DeviceState.GOING_BACK,
    DeviceState.SWITCHING,
    DeviceState.SOAKING,
    DeviceState.STAGING,
    DeviceState.STAGED,
    DeviceState.BACK,
    DeviceState.GOOD,
    DeviceState.WAITING,
)
GOES_ON = (RolloutPhase.PLANNED, RolloutPhase.RUNNING, RolloutPhase.GOING_BACK)
"""Phases in which something happens as soon as somebody runs the rollout."""


class DeviceTold(msgspec.Struct, frozen=True):
    """One device of a rollout; times are Unix seconds.

    Attributes:
        wave: counted from 1.
        since: of the last move; 0 before the first.
        due: when it is asked for its verdict or tried again; None where that is not known, as while
            nobody runs the rollout.
        window: when it may switch; empty: always.
        quality: how it compares the release with the one before; None: it did not say.
    """

    name: str
    kind: str
    wave: int
    state: DeviceState
    since: float
    reason: str
    tries: int
    due: float | None
    window: str
    quality: QualityReport | None = None


class NextThing(msgspec.Struct, frozen=True):
    """What happens by time alone, and when (Unix seconds)."""

    at: float
    what: str


class RolloutTold(msgspec.Struct, frozen=True):
    """How a rollout stands.

    Attributes:
        wave, waves: the present one, counted from 1, and how many there are.
        started, changed: Unix seconds of the first and of the last event; 0 before.
        by: who started it.
        holder: who runs it; empty: nobody.
        over: whether nothing is at work and nothing begins by itself.
        judging: whether all that is left is that devices end their trial, as they do alone.
        counts: devices by state.
        stuck: devices that a rollback could not take back.
        next: what happens by time, the earliest first.
        advice: commands that can follow, each with what it does.
        head: the last hash of the journal.
    """

    number: int
    release: str
    phase: RolloutPhase
    reason: str
    wave: int
    waves: int
    wave_phase: WavePhase
    window_open: bool
    started: float
    changed: float
    by: str
    holder: str
    over: bool
    judging: bool
    counts: dict[DeviceState, int]
    stuck: list[str]
    devices: list[DeviceTold]
    next: list[NextThing]
    advice: list[str]
    head: str


def tell(
    number: int, rollout: Rollout, rows: Sequence[RolloutRow], head: str, holder: str
) -> RolloutTold:
    """Say how a rollout stands.

    Args:
        number: of the rollout.
        rollout: as its rows leave it.
        rows: of its journal.
        head: of its journal.
        holder: who runs it; empty: nobody.
    """
    begun = next((row for row in rows if isinstance(row.event, RolloutStarted)), None)
    started = begun.event if begun else None
    return RolloutTold(
        number=number,
        release=str(rollout.plan.release),
        phase=rollout.phase,
        reason=printable(_reason(rollout, rows)),
        wave=rollout.wave + 1,
        waves=len(rollout.waves),
        wave_phase=rollout.wave_phase,
        window_open=rollout.window_open,
        started=begun.at if begun else 0.0,
        changed=rows[-1].at if rows else 0.0,
        by=started.by if isinstance(started, RolloutStarted) else "",
        holder=holder,
        over=rollout.over,
        judging=_judging(rollout),
        counts=rollout.counts(),
        stuck=stuck(rollout),
        devices=_devices(rollout, held=bool(holder)),
        next=_next(rollout, rows[-1].at if rows else 0.0) if holder else [],
        advice=_advice(number, rollout, holder),
        head=head,
    )


def printable(text: str) -> str:
    """A device's own words in one line, without what would steer a terminal."""
    if text.isprintable():
        return text
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _reason(rollout: Rollout, rows: Sequence[RolloutRow]) -> str:
    """Why it is paused, or who ended it."""
    if rollout.phase == RolloutPhase.PAUSED:
        return rollout.reason
    kind = AbortOrdered if rollout.phase == RolloutPhase.ABORTED else RollbackOrdered
    if rollout.phase not in (RolloutPhase.ABORTED, RolloutPhase.GOING_BACK, RolloutPhase.BACK):
        return ""
    by = [row.event.by for row in rows if isinstance(row.event, kind)]
    return f"ordered by {by[-1]}" if by else ""


def _devices(rollout: Rollout, *, held: bool) -> list[DeviceTold]:
    """All devices: what needs a look first, then the latest move first."""
    found = [
        DeviceTold(
            name=name,
            kind=rollout.plan.kinds[name],
            wave=wave,
            state=device.state,
            since=device.since,
            reason=printable(device.reason),
            tries=device.tries,
            due=_due(rollout, device) if held else None,
            window=rollout.plan.windows.get(name, ""),
            quality=rollout.judging.told.get(name),
        )
        for wave, names in enumerate(rollout.waves, 1)
        for name in names
        for device in (rollout.devices[name],)
    ]
    order = {state: place for place, state in enumerate(_FIRST)}
    return sorted(found, key=lambda device: (order[device.state], -device.since, device.name))


def _due(rollout: Rollout, device: DeviceProgress) -> float | None:
    back = rollout.phase == RolloutPhase.GOING_BACK
    again = device.state == DeviceState.AWAY and (
        rollout.phase == RolloutPhase.RUNNING or (back and device.switched)
    )
    return device.due if again or device.state == DeviceState.SOAKING else None


def _next(rollout: Rollout, now: float) -> list[NextThing]:
    """The end of the wave's soak, the first verdict, the first try of a device that is away, and
    when windows open for devices that wait for them."""
    found = []
    if rollout.phase == RolloutPhase.RUNNING and rollout.wave_phase == WavePhase.SOAKING:
        found.append(NextThing(rollout.soak_until, f"the soak of wave {rollout.wave + 1} is over"))
    if rollout.phase == RolloutPhase.RUNNING and rollout.wave_phase == WavePhase.JUDGING:
        found.append(NextThing(rollout.judging.until, "it pauses unless all scores are there"))
    for state, words in (
        (DeviceState.SOAKING, "{name} is asked for its verdict"),
        (DeviceState.AWAY, "{name} is tried again"),
    ):
        waiting = [
            (due, name)
            for name, device in rollout.devices.items()
            if device.state == state and (due := _due(rollout, device)) is not None
        ]
        if waiting:
            due, name = min(waiting)
            more = f", and {len(waiting) - 1} more later" if len(waiting) > 1 else ""
            found.append(NextThing(due, words.format(name=name) + more))
    return sorted([*found, *_openings(rollout, now)], key=lambda thing: thing.at)


def _openings(rollout: Rollout, now: float) -> list[NextThing]:
    """When the windows open for which staged devices wait."""
    waiting = [
        rollout.plan.windows[name]
        for name, device in rollout.devices.items()
        if device.state == DeviceState.STAGED and not rollout.openings.may_switch(name)
    ]
    return [
        NextThing(at, f"{counted(waiting.count(text), 'staged device')} may switch: {text}")
        for text in sorted(set(waiting))
        if rollout.phase == RolloutPhase.RUNNING
        and (at := parse_window(text).next_change(now)) is not None
    ]


def switched(rollout: Rollout) -> int:
    """How many devices a rollback would take back."""
    return sum(device.switched for device in rollout.devices.values())


def stuck(rollout: Rollout) -> list[str]:
    """The devices that a rollback could not take back."""
    return [name for name, device in rollout.devices.items() if device.stuck]


def at_work(rollout: Rollout) -> int:
    """How many devices a connection is at work on, or was when the rollout's holder ended."""
    return sum(device.state in WORKED_ON for device in rollout.devices.values())


def _judging(rollout: Rollout) -> bool:
    """Whether all that is left is that devices of the last wave end their trial, as they do
    without a controller."""
    states = {device.state for device in rollout.devices.values()}
    last = rollout.wave + 1 == len(rollout.waves)
    return last and DeviceState.SOAKING in states and states <= {DeviceState.SOAKING, *ENDED}


def _advice(number: int, rollout: Rollout, holder: str) -> list[str]:
    """The commands that make sense now."""
    counts = rollout.counts()
    failed, away = counts.get(DeviceState.FAILED, 0), counts.get(DeviceState.AWAY, 0)
    resume = f"`edgekit resume {number}`"
    said = []
    if rollout.phase in GOES_ON:
        if not holder and _judging(rollout):
            said.append(f"the devices on trial judge it by themselves: {resume} asks them")
        elif not holder:
            said.append(f"nobody runs it: {resume} goes on")
    elif rollout.phase == RolloutPhase.PAUSED:
        verb = "begins" if rollout.wave_phase == WavePhase.NEW else "goes on with"
        said.append(f"{resume} {verb} wave {rollout.wave + 1} of {len(rollout.waves)}")
    elif at_work(rollout) and not holder:
        said.append(f"nobody waits for the devices at work: {resume} does")
    elif rollout.phase == RolloutPhase.DONE and away:
        said.append(f"{resume} tries {counted(away, 'device')} again that are away")
    if failed and rollout.phase in (RolloutPhase.PAUSED, RolloutPhase.DONE):
        said.append(
            f"`edgekit resume {number} --retry-failed` tries {counted(failed, 'failed device')} "
            "again, too"
        )
    for name in stuck(rollout)[:3]:
        if rollout.devices[name].reason == GONE:
            said.append(f"`edgekit rollback {name}` takes it back, once fleet.toml has it again")
        else:
            said.append(f"`edgekit state {name}` shows what runs there: it could not go back")
    stands = (RolloutPhase.PAUSED, RolloutPhase.DONE, RolloutPhase.ABORTED)
    if rollout.phase in stands and (back := switched(rollout)):
        said.append(f"`edgekit rollback --rollout {number}` takes {counted(back, 'device')} back")
    return said


def counted(count: int, noun: str) -> str:
    """`1 device`, `3 devices`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def lasted(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, lower in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {lower}" if rest else "")
    return f"{whole} s"
