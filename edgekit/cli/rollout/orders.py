"""`pause` and `abort`: an order goes into the journal, and whoever runs the rollout obeys it."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from edgekit.cli import questions, render
from edgekit.cli.options import JsonOption, ProjectOption
from edgekit.cli.project import operator
from edgekit.cli.rollout.found import FoundRollout, NumberArgument, YesOption, find
from edgekit.errors import UsageError
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import AbortOrdered, PauseOrdered, RolloutEvent
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.telling.told import at_work, counted

_STANDS = {
    RolloutPhase.PLANNED: "has not begun",
    RolloutPhase.RUNNING: "is running",
    RolloutPhase.PAUSED: "is paused already",
    RolloutPhase.DONE: "is done",
    RolloutPhase.ABORTED: "is aborted",
    RolloutPhase.GOING_BACK: "goes back, which stops for nothing",
    RolloutPhase.BACK: "has gone back",
}


def pause(
    number: NumberArgument = None,
    reason: Annotated[str, typer.Option(help="Why; the journal keeps it.")] = "",
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a rollout begin nothing more; what is at work on a device ends.

    \b
    Example:  edgekit pause --reason "the line is busy"
    """
    found = find(project_folder, number)
    if found.follower.rollout.phase != RolloutPhase.RUNNING:
        raise refusal(found, "not paused")
    give(found, PauseOrdered(operator(), reason), RolloutPhase.PAUSED)
    if as_json:
        render.print_json(found.as_json())
        return
    render.say(f"rollout {found.number} is paused{_ends(found)}")
    say_next(found)


def abort(
    number: NumberArgument = None,
    yes: YesOption = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a rollout for good; devices that have the release keep it.

    `edgekit rollback --rollout N` takes an aborted rollout back.

    \b
    Example:  edgekit abort 3
    """
    found = find(project_folder, number)
    if found.follower.rollout.phase not in (RolloutPhase.RUNNING, RolloutPhase.PAUSED):
        raise refusal(found, "not aborted")
    counts = found.follower.rollout.counts()
    have = counts.get(DeviceState.GOOD, 0) + counts.get(DeviceState.SOAKING, 0)
    question = f"abort rollout {found.number}? {counted(have, 'device')} keep the release"
    confirm(question + f"; {len(found.follower.rollout.devices)} are in the plan", yes=yes)
    give(found, AbortOrdered(operator()), RolloutPhase.ABORTED)
    if as_json:
        render.print_json(found.as_json())
        return
    render.say(f"rollout {found.number} is aborted{_ends(found)}")
    say_next(found)


def give(found: FoundRollout, order: RolloutEvent, becomes: RolloutPhase) -> None:
    """Write an order down, and read what became of it.

    Raises:
        UsageError: the rollout had moved on before the order came.
    """
    found.journal.append(order, time.time())
    for row in found.journal.since(len(found.rows)):
        found.rows.append(row)
        found.follower.take(row)
    if found.follower.rollout.phase != becomes:
        raise refusal(found, "the order came too late")


def refusal(found: FoundRollout, what: str) -> UsageError:
    """Why an order makes no sense now, and what does."""
    told = found.told
    stands = f"rollout {found.number} {_STANDS[told.phase]}"
    if told.holder and told.phase in (RolloutPhase.RUNNING, RolloutPhase.GOING_BACK):
        return UsageError(
            f"{what}: {stands}",
            f"{told.holder} runs it",
            f"`edgekit status {found.number} --watch` shows what it does",
        )
    next_step = told.advice[0] if told.advice else f"`edgekit status {found.number}` shows it"
    return UsageError(f"{what}: {stands}", told.reason, next_step)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal.

    Raises:
        UsageError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not _asks_a_person():
        raise UsageError(
            "not confirmed: there is no terminal to ask on", question, "--yes says it beforehand"
        )
    if not questions.confirm(question):
        raise UsageError("not confirmed: nothing was ordered", next_step="run it again and say yes")


def _asks_a_person() -> bool:
    return sys.stdin.isatty()


def _ends(found: FoundRollout) -> str:
    """What of it still goes on."""
    busy = at_work(found.follower.rollout)
    if busy and (by := found.told.holder):
        return f"; {by} ends what is at work on {counted(busy, 'device')}"
    return ""


def say_next(found: FoundRollout) -> None:
    """Say which commands can follow."""
    for advice in found.told.advice:
        render.say(f"  {advice}")
