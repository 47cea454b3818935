"""Runs a rollout from the command line: shows it while it runs, and reports its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from edgekit.cli import project, render
from edgekit.cli.interrupts import ended_as_by_ctrl_c
from edgekit.cli.release.trust import reference_of
from edgekit.cli.rollout import planned
from edgekit.cli.rollout.bring import configs_of, source_of
from edgekit.cli.rollout.stuck import not_told, raise_for_stuck
from edgekit.cli.rollout.terms import hooks_of, lease_of, window_line
from edgekit.cli.rollout.wayback import gone_of, may_go_back, may_join
from edgekit.core.config import AgentConfig
from edgekit.core.quality import in_words
from edgekit.errors import (
    EdgekitError,
    PartialError,
    UsageError,
)
from edgekit.fleet.connections import Connections
from edgekit.fleet.drive import Event
from edgekit.fleet.inventory import Fleet
from edgekit.fleet.pulling.roads import DeskHands, RoadHands, put_back
from edgekit.fleet.push import ReleaseSource
from edgekit.fleet.rollout.book import number_of
from edgekit.fleet.rollout.device import GONE, DeviceState
from edgekit.fleet.rollout.events import (
    DeviceAway,
    DeviceFailed,
    DeviceStaged,
    QualityTold,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEvent,
)
from edgekit.fleet.rollout.hands import Pushed, PushHands
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.run import run
from edgekit.fleet.rollout.telling.told import printable, stuck, switched
from edgekit.fleet.rollout.windows.zones import check_zones

if TYPE_CHECKING:  # brings an MQTT client
    from edgekit.fleet.pulling.hands import PullHands

ENDED = (RolloutPhase.DONE, RolloutPhase.ABORTED, RolloutPhase.BACK)


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
    rollout = journal.replay()
    plan, fleet = rollout.plan, here.fleet()
    back = isinstance(order, RollbackOrdered) or rollout.phase == RolloutPhase.GOING_BACK
    gone = [name for name in rollout.devices if name not in fleet.devices]
    retry = isinstance(order, ResumeOrdered) and order.retry_failed
    ended = (DeviceState.GOOD, *(() if retry else (DeviceState.FAILED,)))
    needed = [name for name in gone if rollout.devices[name].state not in ended]
    if needed and not back:
        ends = rollout.phase in (RolloutPhase.RUNNING, RolloutPhase.PAUSED)
        raise UsageError(
            f"fleet.toml does not have {', '.join(needed)} any more",
            f"rollout {number_of(journal)} goes to it",
            "put it back into fleet.toml" + (", or abort the rollout" if ends else ""),
        )
    lost = gone_of(here, rollout) if isinstance(order, RollbackOrdered) else []
    if lost and len(lost) == switched(rollout) and not may_join(here, rollout):
        raise UsageError(
            f"not taken back: fleet.toml does not have {', '.join(lost)} any more",
            f"rollout {number_of(journal)} has switched no other device",
            put_back(lost),
        )
    names = [name for name in rollout.devices if name not in gone]
    check_zones(plan.windows)
    # A way back needs neither the bundle nor a signature that is fresh, nor any configuration.
    source = None if back else source_of(here, here.store.resolve(plan.release))
    configs = {} if back else configs_of(here, fleet, names)
    publish_for(here, fleet, names, source)
    if order is not None:
        journal.append(order, time.time())
    drive_rollout(
        *(here, Connections(fleet), journal, source, configs),
        wait=True,
        as_json=as_json,
        take_over=take_over,
    )


def publish_for(
    here: project.Project, fleet: Fleet, names: list[str], source: ReleaseSource | None
) -> None:
    """Bring a release to the registry if one of these devices pulls it from there."""
    if source is not None and any(fleet.devices[name].pulls for name in names):
        from edgekit.cli.release.publish import upload  # noqa: PLC0415  only pulls need a registry

        assert source.metadata is not None, "a push sends what signs its bundle"
        upload(here, fleet, source.pinned, source.metadata)


# --- while it runs ----------------------------------------------------------------------------
def drive_rollout(
    here: project.Project,
    connections: Connections,
    journal: RolloutJournal,
    source: ReleaseSource | None,
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
    devices = connections.fleet.devices
    names = [name for wave in plan.waves for name in wave]
    gone = [name for name in names if name not in devices]
    pulling = [name for name in names if name not in gone and devices[name].pulls]
    with ExitStack() as opened:
        bars = opened.enter_context(render.transfers())
        opened.enter_context(ended_as_by_ctrl_c(signal.SIGTERM, signal.SIGHUP))

        def report(device: str, event: Event) -> None:
            bars.update(device, event.step, event.sent, event.total)

        hook = hooks_of(here.folder, journal, plan, lease.ended, bars.say)
        push = PushHands(
            plan.release,
            source,
            connections.open,
            configs.__getitem__,
            report,
            hook,
            lease,
        )
        short = plan.release.short
        name = reference_of(here.store, source.pinned) if source else short

        def at_broker() -> PullHands:
            from edgekit.cli.release.publish import at_desk  # noqa: PLC0415  it needs a broker
            from edgekit.fleet.pulling.hands import PullHands  # noqa: PLC0415  likewise

            desk = opened.enter_context(at_desk(here))
            back = partial(may_go_back, here)
            later = here.rollouts.told_after(number)
            return PullHands(
                *(plan.release, name, number, desk, back, report, hook, plan.windows), later
            )

        pull = DeskHands(at_broker) if pulling else None
        if pull is not None and source is not None:  # a way back begins without the broker
            pull.reach()
        hands = RoadHands(push, pull, pulling, gone)
        told = _teller(bars, hands, name)
        try:
            rollout = run(journal, hands, told, project.operator(), leave_soaking=not wait)
        except KeyboardInterrupt:
            counts = journal.replay().counts()
            raise PartialError(
                f"rollout {number} was stopped: {_counted(counts)}",
                "what had arrived stays on the devices, and each runs a whole release",
                f"`edgekit resume {number}` goes on, `edgekit abort {number}` ends it",
            ) from None
        finally:
            connections.close()
        untold = None
        try:
            for line in pull.leave_word(rollout, pulling) if pull is not None else ():
                bars.say(line)
        except EdgekitError as error:
            if rollout.phase != RolloutPhase.BACK:
                raise
            untold = not_told(rollout, pulling, error)
    if rollout.phase in ENDED:
        journal.close()
    _report(here, number, rollout, hands, connections.fleet, as_json)
    _raise_for(number, rollout, hands)
    if untold is not None:
        raise untold


def _teller(
    bars: render.Transfers, hands: RoadHands, reference: str
) -> Callable[[Rollout, RolloutRow], None]:
    """Says on stderr what happens while it happens."""
    seen = {"wave": 0, "judging": False}

    def tell(rollout: Rollout, row: RolloutRow) -> None:
        many = len(rollout.waves) > 1
        device = getattr(row.event, "device", "")
        if device:
            bars.remove(device)
        if many and seen["wave"] != rollout.wave + 1 and rollout.phase == RolloutPhase.RUNNING:
            seen["wave"] = rollout.wave + 1
            size = len(rollout.waves[rollout.wave])
            bars.say(f"wave {seen['wave']} of {len(rollout.waves)}: {size} devices")
        if rollout.wave_phase == WavePhase.JUDGING and not seen["judging"]:
            seen["judging"] = True
            bars.say("the devices of wave 1 compare their answers with those of the release before")
        if isinstance(row.event, DeviceStaged) and (line := window_line(rollout, device)):
            bars.say(line)
        if isinstance(row.event, QualityTold):
            bars.say(f"{device}: {printable(in_words(row.event.report))}")
        elif isinstance(row.event, (DeviceFailed, DeviceAway)):
            error = hands.failed.get(device)
            if error is not None:
                error.next_step = render.named(error.next_step, device, reference)
            if len(rollout.devices) > 1:
                bars.say(f"{device}: {error or row.event.reason}")
        elif many and device and (done := hands.done.get(device)):
            state = rollout.devices[device].state
            if _has_it(rollout, device):
                bars.say(f"{device} is good" if state == DeviceState.GOOD else _line(done))

    return tell


# --- when it has ended ------------------------------------------------------------------------
def _report(
    here: project.Project,
    number: int,
    rollout: Rollout,
    hands: RoadHands,
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
        if fleet.devices[one.device].address.startswith("ssh:") and not hands.enrolled[one.device]
    ]
    if as_json:
        errors = {name: error.to_dict() for name, error in sorted(hands.failed.items())}
        told = {"rollout": number, "phase": rollout.phase, "release": rollout.plan.release}
        told |= {"pushed": ours, "failed": errors, "not_enrolled": not_enrolled}
        told |= {"quality": rollout.judging.told} if rollout.plan.terms.quality else {}
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
    """Whether a device runs the release, or has it where that is all that was asked for."""
    state, alone = rollout.devices[device].state, rollout.plan.terms.stage_only
    has = state in (DeviceState.GOOD, DeviceState.SOAKING)
    return has or (alone and state == DeviceState.STAGED)


def _is_gone(rollout: Rollout, device: str) -> bool:
    return rollout.devices[device].reason == GONE


def _raise_for(number: int, rollout: Rollout, hands: RoadHands) -> None:
    """Raise unless every device has the release, or has gone back where that was asked."""
    if rollout.phase == RolloutPhase.BACK:
        left = stuck(rollout)
        raise_for_stuck(number, left, [name for name in left if _is_gone(rollout, name)])
        return
    lacking = [name for name in rollout.devices if not _has_it(rollout, name)]
    goes_on = f"`edgekit status {number}` shows each device, `edgekit resume {number}` goes on"
    if not lacking:
        if rollout.phase == RolloutPhase.PAUSED:  # by the quality of a wave that is good otherwise
            raise PartialError(f"rollout {number} is paused", rollout.reason, goes_on)
        return
    if len(rollout.devices) == 1 and (error := hands.failed.get(lacking[0])):
        raise error
    some = len(lacking) < len(rollout.devices)
    stopped = len(rollout.waves) > 1 or not hands.failed  # by a hook or a person
    kind = PartialError if some or stopped else EdgekitError
    if rollout.phase == RolloutPhase.PAUSED and stopped:
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
    verb = "staged " if result.state == "staged" else verb
    line = f"{verb} {result.release.short} on {result.device}: {sent}, {result.seconds:.1f} s"
    if result.silent_seconds is not None:
        line += f"; nobody answered for {result.silent_seconds:.1f} s"
    if result.soak_seconds is not None:
        line += f"; on trial, good after {result.soak_seconds:.0f} s more without a crash"
    return line
