"""One case: a device in a state, an act on it, a fault; then what must hold."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from edgekit.agent.release import activate, state
from edgekit.agent.release.root import Root
from edgekit.agent.release.space import survey
from edgekit.agent.release.staging import permission
from edgekit.agent.release.state import Releases
from edgekit.agent.release.supervisor import choose
from edgekit.agent.release.upkeep import keep, quiet
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState
from edgekit.trust.metadata import accept
from tests.crash.acts import Act
from tests.crash.calls import ALLOCATE, EIO, ENOSPC, KILL, READS, TORN, Call, KilledError
from tests.crash.durable import Image, Ledger, image_of
from tests.crash.openfiles import connect
from tests.crash.shim import Shim
from tests.crash.signing import remembered
from tests.crash.states import NEW, STATES, TWO, world_at
from tests.crash.world import (
    REPORTED,
    SHIMS,
    Simulated,
    ViolationError,
    World,
    require,
)

STARTS = 3  # a service manager starts a supervisor again that ends with an error
Answered = frozenset[tuple[Digest, bytes]]


@dataclass(frozen=True)
class Start:
    """A state of the table as it can be made again: the disk, and what has answered there."""

    image: Image
    answered: Answered


class EnoughError(Exception):
    """One violation was enough."""


@dataclass
class Bench:
    """Where the cases run.

    Attributes:
        folder: of the devices, one after the other; in memory where the machine has such a disk.
        violations: by case.
        keys: of all cases that ran.
        until_violated: whether the first violation ends the run.
    """

    folder: Path
    violations: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    starts: dict[str, Start] = field(default_factory=dict)
    recovered: dict[object, str] = field(default_factory=dict)  # by disk: its violation, or none
    until_violated: bool = False
    _count: int = 0

    def start(self, state: str) -> Start:
        """Make a state, once."""
        if state not in self.starts:
            with self.device() as world:
                STATES[state](world)
                self.starts[state] = Start(image_of(world.root.path), frozenset(world.answered))
        return self.starts[state]

    @contextmanager
    def device(self, start: Start | None = None) -> Iterator[World]:
        """A device that was switched off, on a disk of its own."""
        self._count += 1
        place = self.folder / str(self._count)
        world = world_at(place)
        if start is not None:
            start.image.write(place)
            world.answered |= start.answered
        Simulated.world = world
        try:
            yield world
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def recover(self, world: World, before: Answered, check: Callable[[], None]) -> None:
        """Check what a device does after a fault; an equal one does the same."""
        disk = image_of(world.root.path).key
        key = (disk, frozenset(world.answered), before, frozenset(world.failing), world.running)
        if key not in self.recovered:
            self.recovered[key] = ""
            try:
                check()
            except ViolationError as error:
                self.recovered[key] = str(error)
        require(not (why := self.recovered[key]), why)

    def case(self, key: str, check: Callable[[], None]) -> None:
        """Run one distinct case and note its violation."""
        assert key not in self.keys, f"{key} twice"
        self.keys.add(key)
        try:
            check()
        except ViolationError as error:
            self.violations[key] = str(error)
            if self.until_violated:
                raise EnoughError from error


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench in memory."""
    shared = Path("/dev/shm")
    place = shared if shared.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="edgekit-crash-", dir=place) as name,
        mock.patch.object(choose, "supervisor_of", Simulated),
    ):
        made = Bench(Path(name))
        with (
            _little_reserve(),
            mock.patch.object(activate, "answering", _answering),
            mock.patch.object(permission, "accept", remembered(accept)),
            mock.patch.object(survey, "_of_processes", lambda *_: set()),  # no process runs here
            mock.patch.object(quiet, "be_quiet", lambda: None),  # it holds for the whole process
            mock.patch.object(keep, "be_quiet", lambda: None),
            mock.patch.object(state, "ROOM_BYTES", 4096),
            mock.patch("sqlite3.connect", connect),
            mock.patch("os.fsync", lambda _: None),  # the real disk is not what is tested
            mock.patch("os.sync", lambda: None),
            mock.patch("time.time", lambda: Simulated.world.clock),
            mock.patch("time.monotonic", lambda: Simulated.world.seconds),
            mock.patch("time.sleep", _sleep),
        ):
            yield made


def _little_reserve() -> AbstractContextManager[object]:
    """A reserve of a few bytes: every disk is read and written again for each case."""
    name = "edgekit.agent.release.space.reserve"
    if find_spec(name) is None:
        return nullcontext()
    return mock.patch.object(import_module(name), "BACK_BYTES", 8192)


def _answering(root: Root) -> bool:
    """No process writes the ready file here, and none has ROOT on its command line."""
    return Simulated.world.running is not None and root.ready_file.exists()


def _sleep(seconds: float) -> None:
    Simulated.world.sleep(seconds)


# --- running an act with a fault -----------------------------------------------------------------
def faults(call: Call) -> Iterator[str]:
    """The faults that a call can have, but for the power's."""
    if call.kind not in READS:
        yield KILL
        if call.kind == "write":
            yield TORN
    if call.kind in ALLOCATE:
        yield ENOSPC
    yield EIO


def run(world: World, act: Act, shim: Shim) -> tuple[bool, str]:
    """Run the act; whether its process was killed, and what it would have reported."""
    world.failing = {(TWO.digest, NEW)} if act.failing else set()
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
    start = bench.start(state)
    with bench.device(start) as world:
        world.moment = act.moment
        act.prepare(world)
        return Start(image_of(world.root.path), frozenset(world.answered))


def followed(
    bench: Bench, start: Start, act: Act
) -> tuple[list[Call], list[tuple[int, str, Image, Answered]]]:
    """Run the act without a fault; its calls, and what a power cut after each would leave."""
    images: list[tuple[int, str, Image, Answered]] = []
    with bench.device(start) as world:
        ready(world, act)
        ledger = Ledger(world.root.path)

        def each(number: int) -> None:
            answered = frozenset(world.answered)
            images.extend(
                (number, name, image, answered) for name, image in ledger.after_power_loss()
            )

        shim = Shim(str(world.root.path), ledger=ledger, each=each)
        run(world, act, shim)
    return shim.calls, images


def ready(world: World, act: Act) -> None:
    """The device runs what it can run when a verb comes; a supervisor starts by itself."""
    world.failing = {(TWO.digest, NEW)} if act.failing else set()
    world.broker_down, world.moment = act.broker_down, act.moment
    if not act.supervisor and "trial" not in _row_states(world):
        world.boot()


def _row_states(world: World) -> set[str]:
    return {row.state for row in Releases(world.root.path).all()}


# --- what must hold ------------------------------------------------------------------------------
def check_rest(world: World, before: Answered, what: str, *, previous: bool = True) -> None:
    """What holds of a device at rest: what is current is whole, has answered, and answers.

    Without `previous` the release to go back to may be damaged.
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
    require(world.running is not None, f"{what}: nothing runs")
    assert world.running is not None
    require(world.running[0] == current, f"{what}: what runs is not current")
    require(world.running in world.answered, f"{what}: what runs has never answered")
    require(world.root.ready_file.exists(), f"{what}: it does not answer")
    if previous:
        check_previous(world, what)


def check_previous(world: World, what: str) -> None:
    """`previous` names a whole release that was good, or none."""
    previous = world.root.linked(world.root.previous)
    if previous is not None:
        require(not (why := world.unsound(previous)), f"{what}: previous is unsound: {why}")
        row = Releases(world.root.path).get(previous)
        known = (ReleaseState.GOOD, ReleaseState.TRIAL)  # of a trial that no supervisor began
        require(row is not None and row.state in known, f"{what}: previous was never good")


def check_retry(world: World, *, previous: bool = True) -> None:
    """The same push, once more, ends with the wanted release: current, good, answering."""
    world.failing, world.broker_down = set(), False
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


def check_boot(world: World, before: Answered, what: str) -> None:
    """The device starts again, by itself."""
    for left in reversed(range(STARTS)):
        try:
            world.boot()
            break
        except FileNotFoundError as error:
            raise ViolationError(f"{what}: the supervisor misses {error.filename}") from error
        except (*REPORTED, sqlite3.Error, KilledError) as error:
            if not left:
                raise ViolationError(f"{what}: the supervisor ends with {error!r}") from error
    check_rest(world, before, what)


def fault_case(bench: Bench, start: Start, act: Act, number: int, fault: str) -> None:
    """An error or a kill at one call."""
    with bench.device(start) as world:
        ready(world, act)
        before, ran = frozenset(world.answered), world.running is not None
        killed, _ = run(world, act, Shim(str(world.root.path), number, fault))
        how = "kill" if killed else "error"
        if act.supervisor:
            world.running = None

        def check() -> None:
            if world.running is None:
                check_boot(world, before, f"after the {how}")
            else:
                check_rest(world, before, f"after the {how}")
            check_retry(world)

        if ran and not act.supervisor:
            require(world.running is not None, f"after the {how}: nothing runs")
        bench.recover(world, before, check)


def power_case(bench: Bench, image: Image, answered: Answered, before: Answered, act: Act) -> None:
    """A device that finds this disk when the power is back."""
    with bench.device(Start(image, answered)) as world:
        world.failing = {(TWO.digest, NEW)} if act.failing else set()
        world.broker_down, world.moment = act.broker_down, act.moment

        def check() -> None:
            check_boot(world, before, "after the boot")
            check_retry(world)

        bench.recover(world, before, check)
