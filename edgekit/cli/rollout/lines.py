"""A rollout's status as lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from edgekit.core.digest import short
from edgekit.core.quality import in_words
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.telling.told import GOES_ON, DeviceTold, RolloutTold, printable

SHOWN = 20  # devices of a table, without --all
_STYLES: dict[str, str] = {
    DeviceState.GOOD: "green",
    DeviceState.FAILED: "bold red",
    DeviceState.AWAY: "yellow",
    DeviceState.WAITING: "dim",
    DeviceState.SOAKING: "cyan",
    DeviceState.STAGING: "blue",
    DeviceState.STAGED: "blue",
    DeviceState.SWITCHING: "magenta",
    DeviceState.GOING_BACK: "dark_orange",
    DeviceState.BACK: "dark_orange",
    RolloutPhase.RUNNING: "blue",
    RolloutPhase.PAUSED: "bold yellow",
    RolloutPhase.ABORTED: "bold red",
    RolloutPhase.DONE: "green",
}
_WAVE_WORDS = {
    WavePhase.HOOK_BEFORE: "the hook before it runs",
    WavePhase.JUDGING: "its devices compare the release with the one before",
    WavePhase.SOAKING: "its devices stand, and it soaks",
    WavePhase.HOOK_AFTER: "the hook after it runs",
}


def status_lines(told: RolloutTold, release: str, shown: int | None) -> Iterator[Text]:
    """All lines of a status.

    Args:
        release: name and version of the bundle; empty: not known.
        shown: how many devices the table has at most; None: all.
    """
    yield Text(f"rollout    {told.number}  {release or 'bundle'} {short(told.release)}")
    phase = Text("phase      ").append(told.phase, _STYLES.get(told.phase, ""))
    yield phase.append(f": {told.reason}" if told.reason else "")
    where = _WAVE_WORDS.get(told.wave_phase, "") if told.phase in GOES_ON else ""
    yield Text(f"wave       {told.wave} of {told.waves}" + (f": {where}" if where else ""))
    if not told.window_open:
        yield Text("window     closed: devices are staged and not switched")
    if told.started:
        yield Text(f"started    {clock(told.started)} by {told.by}")
    if told.holder or not told.over:
        yield Text(f"run by     {told.holder or 'nobody'}")
    yield Text("devices    ").append_text(counts(told))
    for place, thing in enumerate(told.next):
        yield Text(f"{'next' if not place else '':<11}{clock(thing.at)}  {thing.what}")
    for place, advice in enumerate(told.advice):
        yield Text(f"{'then' if not place else '':<11}{advice}")
    yield Text("")
    yield from table(told.devices, shown)


def counts(told: RolloutTold) -> Text:
    """Like `8 good, 1 failed, 1 away`."""
    parts = [Text(f"{n} {state}", _STYLES[state]) for state, n in told.counts.items()]
    return Text(", ").join(parts)


def table(devices: Sequence[DeviceTold], shown: int | None) -> Iterator[Text]:
    """A line for each device, as many as are shown; the rest by state."""
    some = devices if shown is None else devices[:shown]
    rows = [
        (
            device.name,
            str(device.wave),
            device.state,
            clock(device.since) if device.since else "",
            device.reason + _again(device) or _quality(device),
        )
        for device in some
    ]
    heads = ("device", "wave", "state", "since", "reason")
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    for place, row in enumerate((heads, *rows)):
        line = Text()
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            style = "dim" if not place else _STYLES.get(cell, "") if column == 2 else ""
            line.append(cell.ljust(width) + "  ", style)
        line.rstrip()
        yield line
    rest: dict[str, int] = {}
    for device in devices[len(some) :]:
        rest[device.state] = rest.get(device.state, 0) + 1
    if rest:
        more = ", ".join(f"{count} {state}" for state, count in rest.items())
        yield Text(f"and {sum(rest.values())} more: {more}; --all shows them", "dim")


def _again(device: DeviceTold) -> str:
    if device.due is None:
        return ""
    what = "tried again" if device.state == DeviceState.AWAY else "asked"
    return f"{'; ' if device.reason else ''}{what} at {clock(device.due)}"


def _quality(device: DeviceTold) -> str:
    return "" if device.quality is None else printable(in_words(device.quality))


def clock(at: float) -> str:
    """Local time; with its day unless that is today."""
    local = datetime.fromtimestamp(at).astimezone()
    today = datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"
