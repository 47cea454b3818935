"""`resume` and `rollback`: an order, and then the rollout is run, unless somebody runs it."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli import render
from edgekit.cli.device.fleet import call
from edgekit.cli.options import JsonOption, ProjectOption, TakeOverOption
from edgekit.cli.project import operator
from edgekit.cli.rollout.found import FoundRollout, NumberArgument, YesOption, find
from edgekit.cli.rollout.orders import confirm, give, refusal
from edgekit.cli.rollout.perform import go_on
from edgekit.cli.rollout.watch import watch
from edgekit.cli.rollout.wayback import gone_of, may_join, prepare_way_back
from edgekit.errors import UsageError
from edgekit.fleet.rollout.device import GONE, DeviceState
from edgekit.fleet.rollout.events import (
    ResumeOrdered,
    RollbackOrdered,
    RolloutEvent,
    RolloutStarted,
)
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.telling.told import GOES_ON, at_work, counted, switched

NEWEST = "newest"


def resume(
    number: NumberArgument = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the devices again that failed.")
    ] = False,
    take_over: TakeOverOption = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a rollout: one that is paused, waits for a word, or whose controller ended.

    A rollout that is done is gone on with for the devices that were away, or that failed with
    --retry-failed. Failures so far do not pause it again.

    \b
    Example:  edgekit resume
              edgekit resume 3 --retry-failed
    """
    found = find(project_folder, number)
    rollout, held = found.follower.rollout, bool(found.told.holder)
    counts = rollout.counts()
    order: RolloutEvent | None = ResumeOrdered(operator(), retry_failed)
    if rollout.phase in GOES_ON and not held and not retry_failed:
        # its controller ended: no order is needed, somebody has to run it
        order = RolloutStarted(operator()) if rollout.phase == RolloutPhase.PLANNED else None
    elif rollout.phase == RolloutPhase.ABORTED and at_work(rollout) and not held:
        order = None
    elif rollout.phase == RolloutPhase.DONE:
        if not (counts.get(DeviceState.AWAY) or (retry_failed and counts.get(DeviceState.FAILED))):
            raise refusal(found, "nothing to resume")
    elif rollout.phase != RolloutPhase.PAUSED:
        raise refusal(found, "not resumed")
    _run(found, order, RolloutPhase.RUNNING, as_json=as_json, take_over=take_over)


def rollback(
    device: Annotated[str | None, typer.Argument(help="A device of fleet.toml.")] = None,
    rollout: Annotated[
        str | None,
        typer.Option(metavar="N", help="Take this rollout back: its number, or `newest`."),
    ] = None,
    yes: YesOption = False,
    take_over: TakeOverOption = False,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch a device back to the release that it ran before; or a whole rollout's devices.

    A device whose last release is unproven runs the one before already: it stays on that, and tries
    the unproven one no more.

    A rollout is taken back on the devices that it switched, and on no other. Each device is asked
    what it runs: one that runs another release by now stays as it is.

    \b
    Example:  edgekit rollback pi-1
              edgekit rollback --rollout 3
    """
    if (device is None) == (rollout is None):
        raise UsageError(
            "name one device, or a rollout",
            next_step="`edgekit rollback DEVICE`, or `edgekit rollback --rollout newest`",
        )
    if rollout is not None:
        found = find(project_folder, _number(rollout))
        _take_back(found, yes=yes, as_json=as_json, take_over=take_over)
        return
    assert device is not None
    answer = call(project_folder, device, "rollback", take_over=take_over)
    if as_json:
        render.print_json(answer)
    else:
        render.say(f"{device} runs {answer['release']}")


def _number(text: str) -> int | None:
    if text == NEWEST:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"{text!r} is no number of a rollout", next_step="`edgekit rollouts` lists them"
        )
    return int(text)


def _take_back(found: FoundRollout, *, yes: bool, as_json: bool, take_over: bool) -> None:
    rollout, held = found.follower.rollout, bool(found.told.holder)
    count = switched(rollout)
    late = may_join(found.here, rollout)
    order: RolloutEvent | None = RollbackOrdered(operator())
    if rollout.phase == RolloutPhase.GOING_BACK and not held:
        order = None
    elif rollout.phase in (RolloutPhase.PLANNED, RolloutPhase.GOING_BACK, RolloutPhase.BACK):
        raise refusal(found, "not taken back")
    elif not count and not late and rollout.phase != RolloutPhase.RUNNING:
        raise refusal(found, "nothing to take back")
    gone = [] if held else gone_of(found.here, rollout)
    prepare_way_back(found.here, rollout)
    for name in gone:
        render.warn(f"{name} is left as it is: {GONE}")
    if order is not None:
        others = " and those that joined late" if late else ""
        question = f"take {counted(count, 'device')}{others} of rollout {found.number} back"
        confirm(f"{question} to what they ran before?", yes=yes)
    _run(found, order, RolloutPhase.GOING_BACK, as_json=as_json, take_over=take_over)


def _run(
    found: FoundRollout,
    order: RolloutEvent | None,
    becomes: RolloutPhase,
    *,
    as_json: bool,
    take_over: bool,
) -> None:
    """Run it with its order; where somebody runs it, give the order and watch."""
    if by := found.told.holder:
        if order is not None:
            give(found, order, becomes)
        render.complain(f"rollout {found.number} is run by {by}; this only watches")
        watch(found, as_json=as_json, everything=False)
    else:
        go_on(found.here, found.journal, as_json, order, take_over=take_over)
