"""Watches a rollout until it is over: a live table on a terminal, a line for each change elsewhere.

It reads the journal and the lock, and touches nothing: Ctrl-C ends the watching, not the rollout.
"""

from __future__ import annotations

from contextlib import nullcontext
from time import monotonic, sleep

from rich.console import Group
from rich.live import Live
from rich.text import Text

from edgekit.cli import render
from edgekit.cli.rollout.found import FoundRollout
from edgekit.cli.rollout.lines import clock, status_lines
from edgekit.cli.rollout.stuck import raise_for_stuck
from edgekit.errors import PartialError
from edgekit.fleet.rollout.device import GONE, DeviceState
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.telling.timeline import RolloutChange
from edgekit.fleet.rollout.telling.told import RolloutTold
from edgekit.fleet.rollout.telling.words import change_words

LOOK_SECONDS = 0.5
NOBODY_SECONDS = 3.0  # without a holder: a command that begins or goes on needs a moment
HEAD_LINES = 12  # of a status, before its table


def watch(found: FoundRollout, *, as_json: bool, everything: bool) -> None:
    """Show what changes until nothing does any more, and the status at the end.

    Args:
        as_json: one JSON object for each change.
        everything: every device in the table.

    Raises:
        PartialError: it is paused or aborted, nobody runs it, or devices lack the release.
    """
    live = Live(console=render.out, auto_refresh=False, transient=True)
    drawn = render.out.is_terminal and not as_json
    seen = monotonic()
    try:
        with live if drawn else nullcontext():
            while True:
                # who holds it is asked first: what the holder wrote before it ended is then read
                told = found.told
                for row in found.journal.since(len(found.rows)):
                    found.rows.append(row)
                    for change in found.follower.take(row):
                        if not drawn:
                            _say(change, as_json)
                if told.holder:
                    seen = monotonic()
                told, held = found.told, bool(told.holder)
                if _ended(told, held, monotonic() - seen):
                    break
                if drawn:
                    live.update(_screen(found, told, everything), refresh=True)
                sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        goes_on = f"; {told.holder} goes on with it" if told.holder else ""
        render.complain(f"rollout {found.number} is not watched any more{goes_on}")
        return
    if as_json:
        render.print_json(found.as_json())
    else:
        for line in status_lines(told, found.release, None if everything else 20):
            render.out.print(line)
    raise_for(told)


def _ended(told: RolloutTold, held: bool, alone_seconds: float) -> bool:
    owed = DeviceState.SOAKING in told.counts  # its holder may still ask for verdicts
    if told.over and not (owed and held):
        return True
    return not held and alone_seconds >= NOBODY_SECONDS


def _screen(found: FoundRollout, told: RolloutTold, everything: bool) -> Group:
    room = max(3, render.out.height - HEAD_LINES - len(told.next) - len(told.advice))
    lines = list(status_lines(told, found.release, None if everything else room))
    return Group(*(line.copy() for line in lines))


def _say(change: RolloutChange, as_json: bool) -> None:
    if as_json:
        render.print_json(change)
        return
    subject, how = change_words(change)
    render.out.print(Text(f"{clock(change.at)}  {subject:<16}  {how}"))


def raise_for(told: RolloutTold) -> None:
    """Raise PartialError unless every device has the release, or has gone back on an order."""
    left = told.advice[0] if told.advice else ""
    if told.phase == RolloutPhase.BACK:
        gone = [each.name for each in told.devices if each.reason == GONE]
        raise_for_stuck(told.number, told.stuck, [name for name in told.stuck if name in gone])
        return
    judging = told.phase == RolloutPhase.RUNNING and told.judging
    if told.phase in (RolloutPhase.PAUSED, RolloutPhase.ABORTED):
        raise PartialError(f"rollout {told.number} is {told.phase}", told.reason, left)
    if told.phase != RolloutPhase.DONE and not judging:
        raise PartialError(f"nobody runs rollout {told.number}", f"it is {told.phase}", left)
    # a rollout that is done leaves no device staged, unless that is all that it was to do
    fine = (DeviceState.GOOD, DeviceState.SOAKING if judging else DeviceState.STAGED)
    lacking = [device.name for device in told.devices if device.state not in fine]
    if lacking:
        message = f"{len(lacking)} of {len(told.devices)} devices do not have the release"
        raise PartialError(message, ", ".join(lacking[:10]), left)
