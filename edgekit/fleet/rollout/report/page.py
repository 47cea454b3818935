"""Fills the template of the report with a rollout's values. The template escapes all of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime, tzinfo

import jinja2
import msgspec

import edgekit
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.report.picture import picture
from edgekit.fleet.rollout.telling.timeline import Follower, RolloutChange, TimeSegment, timeline
from edgekit.fleet.rollout.telling.told import counted, lasted, printable, tell
from edgekit.fleet.rollout.telling.words import change_words, words
from edgekit.fleet.rollout.waves import RolloutPlan

_TERMS = {
    "parallel": "devices at work at one time",
    "soak_seconds": "seconds from a wave's last good device to the next wave",
    "failures": "failed devices that do not pause it",
    "failure_share": "or this share of the devices begun",
    "confirm": "waits for a word after each wave",
    "hook_before": "command before each wave",
    "hook_after": "command after each wave",
    "hook_seconds": "seconds that a command may take",
    "stage_only": "brings the bytes and does not switch",
    "late_seconds": "seconds to the next try of a device that was away",
    "connects": "connections open at one time",
    "lock_wait_seconds": "seconds to wait for a device that another operator holds",
    "quality": "the first wave compares its answers with those of the release before",
    "quality_seconds": "seconds to wait for that",
    "quality_agreement": "least share of equal best tokens where the old release was certain",
    "quality_kl": "largest KL divergence from the old release, in nats",
    "quality_length": "answers may be longer or shorter by this factor",
    "quality_loops": "largest share of answers that begin to repeat themselves",
}


class EventLine(msgspec.Struct, frozen=True):
    """A row of the journal as the page shows it.

    Attributes:
        hash: its first twelve hex digits.
    """

    number: int
    at: float
    who: str
    said: str
    changed: str
    hash: str


class WaveLine(msgspec.Struct, frozen=True):
    """A wave as the page shows it; `span` is None before it began."""

    number: int
    devices: list[str]
    span: TimeSegment | None
    ends: dict[DeviceState, int]


PAGE_BEGINS = b"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Rollout """
"""With what each report begins; page.html.j2 has the same."""


def page(
    number: int,
    plan: RolloutPlan,
    rows: Sequence[RolloutRow],
    *,
    head: str,
    now: float,
    zone: tzinfo,
    holder: str = "",
    release: str = "",
) -> str:
    """The report as one page of HTML.

    Args:
        number: of the rollout.
        plan, rows, head: as the journal has them, verified.
        now: Unix seconds; where the picture of a rollout ends that is not over.
        zone: whose clock the page shows.
        holder: who runs the rollout; empty: nobody.
        release: name and version of the bundle, where they are known.
    """
    follower = Follower(plan)
    line = timeline(follower, rows, now)
    told = tell(number, follower.rollout, rows, head, holder)
    spans = {span.what: span for span in line.waves}
    states = {device.name: device.state for device in told.devices}
    waves = [
        WaveLine(place, sorted(names), spans.get(str(place)), _counts([states[n] for n in names]))
        for place, names in enumerate(line.members, 1)
    ]
    one_day = line.end - line.begin < 86400

    def clock(at: float) -> str:
        local = datetime.fromtimestamp(at, zone)
        return f"{local:%H:%M:%S}" if one_day else f"{local:%d %b %H:%M:%S}"

    def moment(at: float) -> str:
        return datetime.fromtimestamp(at, zone).isoformat(" ", "seconds")

    return (
        _environment(clock, moment)
        .get_template("page.html.j2")
        .render(
            told=told,
            release=release,
            counts=list(told.counts.items()),
            troubled=[d for d in told.devices if d.state in (DeviceState.FAILED, DeviceState.AWAY)],
            devices=sorted(told.devices, key=lambda device: (device.wave, device.name)),
            waves=waves,
            terms=_terms(plan),
            events=[
                _line(place, row, changes)
                for place, (row, changes) in enumerate(zip(rows, line.changes, strict=True), 1)
            ],
            picture=picture(line, zone),
            line=line,
            now=now,
            version=edgekit.__version__,
        )
    )


def _line(number: int, row: RolloutRow, changes: Sequence[RolloutChange]) -> EventLine:
    who = getattr(row.event, "device", "rollout")
    said = words(row.event)
    changed = []
    for change in changes:
        subject, how = change_words(change)
        if how != said:  # an order is told by its event
            changed.append(how.split(": ")[0] if subject == who else f"{subject}: {how}")
    return EventLine(number, row.at, who, said, "; ".join(changed), row.hash[:12])


def _terms(plan: RolloutPlan) -> list[tuple[str, str]]:
    """The terms and the windows in words, each with its value."""
    found = [
        (_TERMS[name], _value(value)) for name, value in msgspec.structs.asdict(plan.terms).items()
    ]
    windows = list(plan.windows.values())
    for window in sorted(set(windows)):
        found.append((f"switch only {window}", counted(windows.count(window), "device")))
    return found


def _value(value: bool | float | list[str]) -> str:
    if isinstance(value, list):
        return shlex.join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}"


def _counts(states: Sequence[DeviceState]) -> dict[DeviceState, int]:
    return {state: count for state in DeviceState if (count := states.count(state))}


def _environment(clock: object, moment: object) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("edgekit.fleet.rollout.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "clock": clock,
        "moment": moment,
        "lasted": lasted,
        "name": lambda state: str(state).replace(" ", "-"),
        "yes": lambda value: (
            {True: "yes", False: "no"}.get(value, value)
            if isinstance(value, bool)
            else f"{value:g}"
        ),
        "px": lambda value: f"{value:.1f}".removesuffix(".0"),
    }
    return made
