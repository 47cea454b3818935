"""One case: a device in a state, an act on it, a fault; then what must hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

from edgekit.agent.release.state import Releases
from edgekit.core import layout
from edgekit.core.release import ReleaseState
from tests.crash.acts import Act
from tests.crash.bench import Answered, Bench, Start, setting, snapshot
from tests.crash.disk.calls import ALLOCATE, EIO, ENOSPC, FULL, KILL, TORN, Call, KilledError
from tests.crash.disk.durable import Ledger
from tests.crash.disk.shim import Shim
from tests.crash.states import NEW, TWO
from tests.crash.world import (
    REPORTED,
    SHIMS,
    ViolationError,
    World,
    require,
)

STARTS = 3  # a service manager starts a supervisor again that ends with an error


# --- running an act with a fault -----------------------------------------------------------------
def faults(call: Call) -> Iterator[str]:
    """The faults that a call can have, but for a kill in front of it and the power's."""
    if call.kind == "write":
        yield TORN
    if call.kind in ALLOCATE:
        yield ENOSPC
    yield EIO


def run(world: World, act: Act, shim: Shim) -> tuple[bool, str]:
    """Run the act; whether its process was killed, and what it would have reported."""
    with shim.at_work():
        SHIMS.append(shim)
        try:
            act.run(world)
        except REPORTED as error:
            return shim.dead, str(error)
        except sqlite3.Error as error:
            raise ViolationError(f"a traceback: {type(error).__name__}: {error}") from error
        finally:
            SHIMS.remove(shim)
    return shim.dead, ""


def prepared(bench: Bench, state: str, act: Act) -> Start:
    """The state with what comes before the act, and a supervisor that has started."""
    with bench.device(bench.start(state)) as world:
        world.moment = act.moment
        act.prepare(world)
        world.running = world.own = None
        ready(world, act)
        return snapshot(world)


Cut = tuple[int, str, Start]


def followed(bench: Bench, start: Start, act: Act) -> tuple[list[Call], list[Cut], list[Cut]]:
    """Run the act without a fault.

    Returns:
        Its calls; the device as a kill at each would leave it; as a power cut after each would.
    """
    killed: list[Cut] = []
    lost: list[Cut] = []
    with bench.device(start) as world:
        setting(world, act)
        ledger = Ledger(world.root.path)

        def before(number: int) -> None:
            killed.append((number, KILL, snapshot(world, ledger.seen())))

        def after(number: int) -> None:
            answered = frozenset(world.answered)
            images = ledger.after_power_loss()
            lost.extend((number, name, Start(image, answered)) for name, image in images)

        shim = Shim(str(world.root.path), ledger=ledger, each=after, before=before)
        run(world, act, shim)
    return shim.calls, killed, lost


def ready(world: World, act: Act) -> None:
    """The device runs what it can run when a verb comes; a supervisor starts by itself."""
    setting(world, act)
    if not act.supervisor and "trial" not in _row_states(world):
        world.boot()


def _row_states(world: World) -> set[str]:
    return {row.state for row in Releases(world.root.path).all()}


# --- what must hold ------------------------------------------------------------------------------
def check_rest(
    world: World, before: Answered, what: str, *, previous: bool = True, ready: bool = True
) -> None:
    """What holds of a device at rest: what is current is whole, has answered, and answers.

    Without `previous` the release to go back to may be damaged; without `ready` the agent may have
    had no room to say that it answers.
    """
    try:
        world.tick()
    except REPORTED as error:
        raise ViolationError(f"{what}: the supervisor ends with {error!r}") from error
    current = world.root.linked(world.root.current)
    if current is None:
        require(not before, f"{what}: nothing is current although a release was good")
        return
    require(not (why := world.unsound(current)), f"{what}: current is unsound: {why}")
    if world.root.stopped_file.exists():  # it answers again once it is started
        world.verb("start")
    require(world.running is not None, f"{what}: nothing runs")
    assert world.running is not None
    require(world.running[0] == current, f"{what}: what runs is not current")
    require(world.running in world.answered, f"{what}: what runs has never answered")
    require(not ready or world.root.ready_file.exists(), f"{what}: it does not answer")
    if previous:
        check_previous(world, what)


def check_previous(world: World, what: str) -> None:
    """`previous` names a whole release that was good, or none.

    A rollback whose trial fails makes it bad; it answered once, and a rollback may try it again.
    """
    previous = world.root.linked(world.root.previous)
    if previous is not None:
        require(not (why := world.unsound(previous)), f"{what}: previous is unsound: {why}")
        row = Releases(world.root.path).get(previous)
        known = (ReleaseState.GOOD, ReleaseState.TRIAL)  # of a trial that no supervisor began
        good = row is not None and row.state in known
        answered = any(release == previous for release, _ in world.answered)
        require(good or answered, f"{what}: previous was never good")


def check_retry(world: World, *, previous: bool = True) -> None:
    """The same push, once more, ends with the wanted release: current, good, answering."""
    world.failing, world.broker_down, world.unstartable = set(), False, False
    try:
        world.push(TWO.digest, NEW)
    except REPORTED as error:
        raise ViolationError(f"the push after it fails: {error}") from error
    except sqlite3.Error as error:
        raise ViolationError(f"the push after it ends with a traceback: {error}") from error
    for moment in ("after the retry", "after the next boot"):
        check_rest(world, frozenset(world.answered), moment, previous=previous)
        require(world.running == (TWO.digest, NEW), f"{moment}: something else runs")
        row = Releases(world.root.path).get(TWO.digest)
        require(row is not None and row.state == ReleaseState.GOOD, f"{moment}: it is not good")
        world.boot()


def check_boot(
    world: World, before: Answered, what: str, *, previous: bool = True, ready: bool = True
) -> None:
    """The device starts again, by itself."""
    for left in reversed(range(STARTS)):
        try:
            world.power_on()
            break
        except FileNotFoundError as error:
            raise ViolationError(f"{what}: the supervisor misses {error.filename}") from error
        except (*REPORTED, sqlite3.Error, KilledError) as error:
            if not left:
                raise ViolationError(f"{what}: the supervisor ends with {error!r}") from error
    check_rest(world, before, what, previous=previous, ready=ready)


def fault_case(bench: Bench, start: Start, act: Act, number: int, fault: str) -> None:
    """An error, or a write that a kill cuts, at one call; a kill in front of one: `killed_case`."""
    with bench.device(start) as world:
        setting(world, act)
        killed, _ = run(world, act, Shim(str(world.root.path), number, fault))
        after = snapshot(world)
    died_case(bench, start, after, act, "kill" if killed else "error")


def died_case(bench: Bench, start: Start, after: Start, act: Act, how: str) -> None:
    """A device whose act has ended by a fault."""
    if act.supervisor:
        after = replace(after, running=None)
    elif start.running is not None and not _is_stopped(after):
        require(after.running is not None, f"after the {how}: nothing runs")

    def check(world: World) -> None:
        where = f"after the {how}"
        if world.running is None:
            check_boot(world, start.answered, where, previous=not act.damaged)
        else:
            check_rest(world, start.answered, where, previous=not act.damaged)
        _then(bench, world, act)

    bench.recover(after, ("died", how, start.answered, around(act)), check, act)


def lasting_case(bench: Bench, start: Start, act: Act, number: int, fault: str) -> None:
    """From one call on the disk is full, or takes no writes; then it is well again.

    What has answered before goes on to answer all the time. On a full disk it also answers after
    the device has started again. On one that takes no writes no supervisor can start: what runs
    does not end.
    """
    with bench.device(start) as world:
        setting(world, act)
        shim = Shim(str(world.root.path), number, fault)
        run(world, act, shim)
        how = f"the disk is {fault}"
        with shim.at_work():
            SHIMS.append(shim)
            shim.elsewhere = True
            try:
                if world.running is not None and "trial" not in _row_states(world):
                    require(world.running in world.answered, f"{how}: what runs has never answered")
                if fault == FULL:
                    check_boot(world, start.answered, how, previous=not act.damaged, ready=False)
            finally:
                SHIMS.remove(shim)
        after = snapshot(world)
    died_case(bench, start, after, act, "error")


def power_case(bench: Bench, found: Start, before: Answered, act: Act) -> None:
    """A device that finds this disk when the power is back."""

    def check(world: World) -> None:
        check_boot(world, before, "after the boot", previous=not act.damaged)
        _then(bench, world, act)

    bench.recover(found, ("power", before, around(act)), check, act)


def _then(bench: Bench, world: World, act: Act) -> None:
    """What else holds, and the retry."""
    what = ("retry", act.moment, act.damaged, act.holds)

    def check(world: World) -> None:
        try:
            act.holds(world)
        except REPORTED as error:
            raise ViolationError(f"what it left cannot be used: {error}") from error
        check_retry(world, previous=not act.damaged)

    bench.recover(snapshot(world), what, check, act)


def _is_stopped(found: Start) -> bool:
    return any(path == str(layout.STOPPED_FILE) for path, _ in found.image.names)


def around(act: Act) -> object:
    """What an act says of the world, as a key."""
    return act.failing, act.broker_down, act.unstartable, act.moment, act.damaged, act.holds


def retry(world: World) -> None:
    """The same push, once more."""
    check_retry(world)
