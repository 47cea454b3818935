"""`push`: a release goes to devices, as a rollout with a journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import project, render
from edgekit.cli.options import (
    DevicesArgument,
    JsonOption,
    ProjectOption,
    TakeOverOption,
    replaceable,
)
from edgekit.cli.release.trust import reference_of
from edgekit.cli.rollout import planned
from edgekit.cli.rollout.bring import configs_of, source_of
from edgekit.cli.rollout.perform import ENDED, drive_rollout, publish_for
from edgekit.core.config import AgentConfig
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.connections import Connections
from edgekit.fleet.plan import is_as_told
from edgekit.fleet.planning.planfile import PLAN_BEGINS
from edgekit.fleet.rollout.book import holder
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    RolloutStarted,
)
from edgekit.fleet.rollout.hook import check_hooks, check_names
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.kinds import survey_kinds
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.settings import terms_of
from edgekit.fleet.rollout.waves import SMALL, RolloutPlan, Terms, waves_of
from edgekit.fleet.rollout.windows.zones import check_zones, device_windows
from edgekit.trust.pinned import PinnedManifest


def push(
    devices: DevicesArgument = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Bundle to push; default: the newest.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Devices that are worked on at one time (8).", min=1)
    ] = None,
    soak_seconds: Annotated[
        float | None, typer.Option(help="Wait between the end of a wave and the next one (0).")
    ] = None,
    failures: Annotated[
        int | None, typer.Option(help="Failed devices that do not pause the rollout (1).")
    ] = None,
    failure_share: Annotated[
        float | None, typer.Option(help="Or this share of those begun; the larger counts (0.05).")
    ] = None,
    confirm: Annotated[
        bool | None,
        typer.Option("--confirm/--no-confirm", help="Pause after each wave, for `edgekit resume`."),
    ] = None,
    quality: Annotated[
        bool | None,
        typer.Option(
            "--quality/--no-quality",
            help="Wait for the first wave's scores against the old release.",
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="When devices may switch: 'mon-fri 22:00-05:00', or always."),
    ] = None,
    lock_wait: Annotated[
        float | None, typer.Option(help="Seconds to wait for a device that another one holds (0).")
    ] = None,
    take_over: TakeOverOption = False,
    stage_only: Annotated[
        bool, typer.Option("--stage-only", help="Bring the bytes, and do not switch.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the devices call the release good.")
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what a push would do to each device; do nothing.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", help="With --plan: write the plan to a file.")
    ] = None,
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Push a saved plan, exactly as it was planned.")
    ] = None,
    project_folder: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stage a bundle on devices and switch them to it; a device that fails goes back by itself.

    More than five devices go in waves: one for each class of hardware, then 5, 25 and 100 %. What
    [rollout] of fleet.toml says holds where no option is given.

    \b
    Example:  edgekit push pi-1 pi-2 --bundle smollm2:1
              edgekit push --plan --save tonight.json
              edgekit push --from tonight.json
    """
    if save is not None and not plan_only:
        raise UsageError("--save stands beside --plan", next_step="add --plan, or leave it out")
    if save is not None and (save.is_dir() or not save.parent.is_dir()):
        where = f"{save} is a folder" if save.is_dir() else f"{save.parent} is no folder"
        raise UsageError(where, next_step="name another file")
    flags = {
        "parallel": parallel,
        "soak_seconds": soak_seconds,
        "failures": failures,
        "failure_share": failure_share,
        "confirm": confirm,
        "quality": quality,
        "lock_wait_seconds": lock_wait,
    }
    others = (
        devices,
        bundle,
        window,
        plan_only,
        stage_only,
        any(v is not None for v in flags.values()),
    )
    if from_file is not None and any(others):
        raise UsageError(
            "--from stands alone: the plan names devices, bundle and terms",
            next_step="leave the others out, or make another plan",
        )
    if save is not None:
        replaceable(save, PLAN_BEGINS, "plan of a push")
    here = project.find(project_folder)
    fleet = here.fleet()
    saved = None if from_file is None else planned.read(from_file)
    if saved is not None and from_file is not None:
        names, bundle = planned.names_of(saved, fleet, from_file), saved.release
    else:
        names = fleet.select(devices or [])
    if not names:
        raise UsageError(
            "fleet.toml has no devices", next_step="add a table [devices.NAME] with its address"
        )
    settings = fleet.rollout.with_flags(**flags)
    own = {name: fleet.devices[name].window for name in names}
    windows = device_windows(own, settings, flag=window)
    terms = terms_of(settings, stage_only=stage_only)
    check_hooks(terms, here.folder)
    pinned = here.store.resolve(bundle)
    configs = configs_of(here, fleet, names)
    source = source_of(here, pinned)
    ahead = planned.PushAhead(here, fleet, source, reference_of(here.store, pinned), configs)
    if plan_only:
        planned.plan_push(ahead, terms, windows, save, project.operator(), as_json)
        return
    connections = Connections(fleet)
    if saved is not None and from_file is not None:
        check_hooks(saved.terms, here.folder)
        check_zones(saved.windows)
        plan = planned.unchanged(saved, ahead, from_file)
    else:
        plan = _plan(connections, configs, pinned, terms, windows)
    check_names(plan)
    publish_for(here, fleet, names, source)
    journal = _begin(here, plan)
    drive_rollout(
        here, connections, journal, source, configs, wait=wait, as_json=as_json, take_over=take_over
    )


def _plan(
    connections: Connections,
    configs: dict[str, AgentConfig],
    pinned: PinnedManifest,
    terms: Terms,
    windows: dict[str, str],
) -> RolloutPlan:
    """Divide devices into waves.

    Many are asked first what hardware they have, and two already whether they are one.
    """
    names, shares = list(configs), connections.fleet.rollout.shares or None
    if len(names) <= SMALL and shares is None:
        reached = [name for name in names if not connections.fleet.devices[name].pulls]
        over_ssh = (connections.fleet.devices[name].address.startswith("ssh:") for name in reached)
        if len(reached) > 1 and any(over_ssh):  # folders of this machine are known by their names
            with render.working(f"looking at {len(reached)} devices"):
                survey_kinds(connections, reached, terms.connects)
        kinds = dict.fromkeys(names, "any")
        return RolloutPlan(pinned.digest, [sorted(names)], kinds, terms, windows)
    with render.working(f"looking at {len(names)} devices"):
        kinds, unchanged = survey_kinds(
            connections,
            names,
            terms.connects,
            lambda name, facts: is_as_told(configs[name], facts, pinned.digest),
        )
    waves = waves_of(kinds, pinned.digest, shares, unchanged)
    return RolloutPlan(pinned.digest, waves, kinds, terms, windows)


def _begin(here: project.Project, plan: RolloutPlan) -> RolloutJournal:
    """Begin a rollout; one that nobody runs any more, to the same devices, ends."""
    book = here.rollouts
    mine = {name for wave in plan.waves for name in wave}
    older = []
    for number in book.numbers():
        journal = book.journal(number)
        if journal.is_closed:
            continue
        rollout = journal.replay()
        if rollout.phase in ENDED:
            journal.close()
        elif mine & set(rollout.devices):
            if by := holder(journal):
                raise EdgekitError(
                    "another push to this device is at work"
                    if len(mine) == 1
                    else "another push to some of these devices is at work",
                    f"rollout {number} is run by {by}",
                    f"wait for it to end, or `edgekit pause {number}` and `edgekit abort {number}`",
                )
            older.append((number, journal, rollout))
    number, journal = book.create(plan, time.time())
    for old, its, rollout in older:
        if rollout.phase == RolloutPhase.PAUSED and len(rollout.waves) > 1:
            render.warn(f"rollout {old} was paused and ends: rollout {number} takes its place")
        its.append(AbortOrdered(f"{project.operator()}, for rollout {number}"), time.time())
    journal.append(RolloutStarted(project.operator()), time.time())
    return journal
