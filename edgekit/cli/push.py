"""`push`: a release goes to devices, as a rollout with a journal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.layers import bootstrap
from edgekit.cli import planned, project, render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.options import DevicesArgument, JsonOption, ProjectOption, TakeOverOption
from edgekit.cli.terms import hooks_of, lease_of, window_line
from edgekit.cli.trust import present, reference_of, trust_of
from edgekit.core.config import AgentConfig, agent_config
from edgekit.core.manifest import Descriptor
from edgekit.errors import EdgekitError, PartialError, UsageError
from edgekit.fleet.drive import Event, cap_of, open_device
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.push import ReleaseSource
from edgekit.fleet.rollout.book import holder, number_of
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    DeviceAway,
    DeviceFailed,
    DeviceStaged,
    RolloutEvent,
    RolloutStarted,
)
from edgekit.fleet.rollout.hands import Pushed, PushHands
from edgekit.fleet.rollout.hook import check_hooks
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.kinds import survey_kinds
from edgekit.fleet.rollout.machine import Rollout, RolloutPhase
from edgekit.fleet.rollout.run import run
from edgekit.fleet.rollout.settings import terms_of
from edgekit.fleet.rollout.waves import SMALL, RolloutPlan, Terms, waves_of
from edgekit.fleet.rollout.windows.zones import device_windows
from edgekit.fleet.transfer.cap import Cap
from edgekit.signing.releases import vouch
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata

ENDED = (RolloutPhase.DONE, RolloutPhase.ABORTED, RolloutPhase.BACK)


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
        float | None, typer.Option(help="And of the begun ones; the larger counts (0.05).")
    ] = None,
    confirm: Annotated[
        bool | None,
        typer.Option("--confirm/--no-confirm", help="Pause after each wave, for `edgekit resume`."),
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
    flags = {
        "parallel": parallel,
        "soak_seconds": soak_seconds,
        "failures": failures,
        "failure_share": failure_share,
        "confirm": confirm,
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
    configs = _configs(here, fleet, names)
    source = _source(here, pinned)
    ahead = planned.PushAhead(here, fleet, source, reference_of(here.store, pinned), configs)
    if plan_only:
        planned.plan_push(ahead, terms, windows, save, project.operator(), as_json)
        return
    if saved is not None and from_file is not None:
        check_hooks(saved.terms, here.folder)
        plan = planned.unchanged(saved, ahead, from_file)
    else:
        plan = _plan(fleet, names, pinned, terms, windows)
    journal = _begin(here, plan)
    _drive(here, fleet, journal, source, configs, wait=wait, as_json=as_json, take_over=take_over)


def go_on(
    here: project.Project,
    journal: RolloutJournal,
    as_json: bool,
    order: RolloutEvent | None = None,
    *,
    take_over: bool = False,
) -> None:
    """Run a rollout that has begun until it is over; for `resume` and `rollback`.

    Args:
        here: the project.
        journal: of the rollout.
        as_json: print one JSON object.
        order: goes into the journal once it is sure that the rollout can be run.
        take_over: break the leases of other operators.

    Raises:
        PartialError: it is paused, or some devices have the release and others do not.
        EdgekitError: no device has it; or another process runs the rollout.
    """
    plan, _, _ = journal.read()
    fleet = here.fleet()
    names = [name for wave in plan.waves for name in wave]
    if gone := [name for name in names if name not in fleet.devices]:
        raise UsageError(
            f"fleet.toml does not have {', '.join(gone)} any more",
            f"rollout {number_of(journal)} goes to it",
            "put it back into fleet.toml, or abort the rollout",
        )
    source = _source(here, here.store.resolve(plan.release))
    configs = _configs(here, fleet, names)
    if order is not None:
        journal.append(order, time.time())
    _drive(here, fleet, journal, source, configs, wait=True, as_json=as_json, take_over=take_over)


# --- before it begins -------------------------------------------------------------------------
def _configs(here: project.Project, fleet: Fleet, names: list[str]) -> dict[str, AgentConfig]:
    """The `agent.toml` of each device; raises UsageError where one is not valid."""
    found, warned = {}, ""
    for name in names:
        broker = fleet.broker_of(name, here.broker)
        if broker.warning != warned:  # mostly it is one broker for all
            render.warn(warned := broker.warning)
        found[name] = agent_config(name, broker, fleet.devices[name])
    return found


def _source(here: project.Project, pinned: PinnedManifest) -> ReleaseSource:
    """The release with what signs it; its first contact is made once for all devices."""
    made: dict[str, tuple[str, bytes]] = {}
    making = threading.Lock()

    def make_bootstrap(runtime: Descriptor) -> tuple[str, bytes]:
        with making:
            if runtime.digest not in made:
                made[runtime.digest] = bootstrap(here.store, pinned.manifest, runtime)
            return made[runtime.digest]

    metadata = _signed(here, pinned, reference_of(here.store, pinned))
    return ReleaseSource(pinned, metadata, here.store, make_bootstrap)


def _signed(here: project.Project, pinned: PinnedManifest, reference: str) -> Metadata:
    """What signs a bundle, fresh enough for devices; raises VerificationError before a push."""
    vouched = vouch(trust_of(here.folder), pinned.digest, reference, present())
    for warning in vouched.warnings:
        render.warn(warning)
    return vouched.metadata


def _plan(
    fleet: Fleet,
    names: list[str],
    pinned: PinnedManifest,
    terms: Terms,
    windows: dict[str, str],
) -> RolloutPlan:
    """Divide devices into waves; many are asked first what hardware they have."""
    shares = fleet.rollout.shares or None
    if len(names) <= SMALL and shares is None:
        kinds = dict.fromkeys(names, "any")
        return RolloutPlan(pinned.digest, [sorted(names)], kinds, terms, windows)
    with render.working(f"looking at {len(names)} devices"):
        kinds = survey_kinds(fleet, names, terms.connects)
    waves = waves_of(kinds, pinned.digest, shares)
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


# --- while it runs ----------------------------------------------------------------------------
def _drive(
    here: project.Project,
    fleet: Fleet,
    journal: RolloutJournal,
    source: ReleaseSource,
    configs: dict[str, AgentConfig],
    *,
    wait: bool,
    as_json: bool,
    take_over: bool = False,
) -> None:
    """Run a rollout, show it, and report its end."""
    number = number_of(journal)
    plan, _, _ = journal.read()
    lease = lease_of(here.rollouts, journal, plan, project.operator(), take_over=take_over)
    with render.transfers() as bars, ended_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP):

        def report(device: str, event: Event) -> None:
            bars.update(device, event.step, event.sent, event.total)

        hook = hooks_of(here.folder, journal, plan, lease.ended, bars.say)
        cap = Cap(fleet.transfer.mbit_per_second)
        hands = PushHands(
            source,
            lambda name: open_device(fleet, name, cap_of(fleet, name, cap)),
            configs.__getitem__,
            report,
            hook,
            lease,
        )
        told = _teller(bars, hands, reference_of(here.store, source.pinned))
        try:
            rollout = run(journal, hands, told, project.operator(), leave_soaking=not wait)
        except KeyboardInterrupt:
            counts = journal.replay().counts()
            raise PartialError(
                f"rollout {number} was stopped: {_counted(counts)}",
                "what had arrived stays on the devices, and each runs a whole release",
                f"`edgekit resume {number}` goes on, `edgekit abort {number}` ends it",
            ) from None
    if rollout.phase in ENDED:
        journal.close()
    _report(here, number, rollout, hands, fleet, as_json)
    _raise_for(number, rollout, hands)


def _teller(
    bars: render.Transfers, hands: PushHands, reference: str
) -> Callable[[Rollout, RolloutRow], None]:
    """Says on stderr what happens while it happens."""
    seen = {"wave": 0, "phase": ""}

    def tell(rollout: Rollout, row: RolloutRow) -> None:
        many = len(rollout.waves) > 1
        device = getattr(row.event, "device", "")
        if device:
            bars.remove(device)
        if many and seen["wave"] != rollout.wave + 1 and rollout.phase == RolloutPhase.RUNNING:
            seen["wave"] = rollout.wave + 1
            size = len(rollout.waves[rollout.wave])
            bars.say(f"wave {seen['wave']} of {len(rollout.waves)}: {size} devices")
        if isinstance(row.event, DeviceStaged) and (line := window_line(rollout, device)):
            bars.say(line)
        if isinstance(row.event, (DeviceFailed, DeviceAway)):
            error = hands.failed.get(device)
            if error is not None:
                error.next_step = render.named(error.next_step, device, reference)
            if len(rollout.devices) > 1:
                bars.say(f"{device}: {error or row.event.reason}")
        elif many and device and (done := hands.done.get(device)):
            state = rollout.devices[device].state
            if state in (DeviceState.GOOD, DeviceState.SOAKING):
                bars.say(_line(done) if state == DeviceState.SOAKING else f"{device} is good")

    return tell


# --- when it has ended ------------------------------------------------------------------------
def _report(
    here: project.Project,
    number: int,
    rollout: Rollout,
    hands: PushHands,
    fleet: Fleet,
    as_json: bool,
) -> None:
    """Print what was done."""
    done = [hands.done[name] for name in rollout.devices if name in hands.done]
    planned.note_rates(here, done)
    ours = [one for one in done if _has_it(rollout, one.device)]
    not_enrolled = [
        one.device
        for one in ours
        if not hands.enrolled[one.device] and fleet.devices[one.device].address.startswith("ssh:")
    ]
    if as_json:
        errors = {name: error.to_dict() for name, error in sorted(hands.failed.items())}
        told = {"rollout": number, "phase": rollout.phase, "release": rollout.plan.release}
        told |= {"pushed": ours, "failed": errors, "not_enrolled": not_enrolled}
        render.print_json(told)
    else:
        for one in ours if len(rollout.waves) == 1 else ():
            render.say(_line(one))
        if len(rollout.waves) > 1:
            render.say(f"rollout {number} is {rollout.phase}: {_counted(rollout.counts())}")
    for one in done:
        for warning in one.warnings:
            render.warn(f"{one.device}: {warning}")
    for name in not_enrolled:  # a push works without it, and a power cut does not forgive it
        render.warn(
            f"{name} is not enrolled: it will not come back after a reboot; `edgekit enroll {name}`"
        )


def _has_it(rollout: Rollout, device: str) -> bool:
    return rollout.devices[device].state in (DeviceState.GOOD, DeviceState.SOAKING)


def _raise_for(number: int, rollout: Rollout, hands: PushHands) -> None:
    """Raise unless every device has the release, or has gone back where that was asked."""
    if rollout.phase == RolloutPhase.BACK:
        return
    lacking = [name for name in rollout.devices if not _has_it(rollout, name)]
    if not lacking:
        return
    if len(rollout.devices) == 1 and (error := hands.failed.get(lacking[0])):
        raise error
    goes_on = f"`edgekit status {number}` shows each device, `edgekit resume {number}` goes on"
    some = len(lacking) < len(rollout.devices)
    kind = PartialError if some or len(rollout.waves) > 1 else EdgekitError
    if rollout.phase == RolloutPhase.PAUSED and len(rollout.waves) > 1:
        raise kind(f"rollout {number} is paused", rollout.reason, goes_on)
    shown = ", ".join(lacking[:10]) + (" and others" if len(lacking) > 10 else "")
    message = f"{len(lacking)} of {len(rollout.devices)} devices failed: {shown}"
    raise kind(message, next_step=goes_on)


def _counted(counts: dict[DeviceState, int]) -> str:
    """Like `8 good, 1 failed, 1 away`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _line(result: Pushed) -> str:
    rate = result.bytes_sent / max(result.transfer_seconds, 1e-9)
    sent = (
        f"{result.blobs_sent} blobs, {render.size(result.bytes_sent)} at {render.size(rate)}/s"
        if result.blobs_sent
        else "no blob sent"
    )
    if result.blobs_sent and result.slower:
        sent += f" through the session ({result.slower})"
    verb = "pushed " if result.changed else "already"
    line = f"{verb} {result.release.short} on {result.device}: {sent}, {result.seconds:.1f} s"
    if result.silent_seconds is not None:
        line += f"; nobody answered for {result.silent_seconds:.1f} s"
    if result.soak_seconds is not None:
        line += f"; on trial, good after {result.soak_seconds:.0f} s more without a crash"
    return line
