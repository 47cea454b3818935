"""Where the cases run: devices on disks in memory, one after the other, in one process."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from edgekit.agent.release import activate, lease, runs, state
from edgekit.agent.release.root import Root
from edgekit.agent.release.space import survey
from edgekit.agent.release.staging import hashed, permission, trees
from edgekit.agent.release.supervisor import choose
from edgekit.agent.release.trial.events import OnDisk
from edgekit.agent.release.upkeep import keep, quiet
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.trust.repeat import believe
from tests.crash.acts import Act
from tests.crash.disk.durable import Image, image_of
from tests.crash.disk.openfiles import close_databases, connect
from tests.crash.signing import remembered
from tests.crash.states import NEW, STATES, TWO, world_at
from tests.crash.world import (
    Simulated,
    ViolationError,
    World,
    require,
)

Answered = frozenset[tuple[Digest, bytes]]


@dataclass(frozen=True)
class Start:
    """A device as it can be made again: its disk, what has answered there, what runs.

    Attributes:
        image: of the disk.
        answered: releases with the configuration under which they have answered.
        running: what its agent runs; None: nothing does.
        own: what its supervisor found on the disk.
        seconds: of the monotonic clock.
    """

    image: Image
    answered: Answered
    running: tuple[Digest, bytes] | None = None
    own: OnDisk | None = None
    seconds: float = 0.0


def snapshot(world: World, image: Image | None = None) -> Start:
    """The device as it is; `image` is its disk where somebody has read it."""
    image = image or image_of(world.root.path)
    answered = frozenset(world.answered)
    return Start(image, answered, world.running, world.own, world.seconds)


def setting(world: World, act: Act) -> None:
    """What an act says of the world around the device."""
    world.failing = {(TWO.digest, NEW)} if act.failing else set()
    world.broker_down, world.moment = act.broker_down, act.moment
    world.unstartable = act.unstartable


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
        every: one case of this many runs, the same ones in each run.
    """

    folder: Path
    violations: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    starts: dict[str, Start] = field(default_factory=dict)
    recovered: dict[object, str] = field(default_factory=dict)  # by disk: its violation, or none
    until_violated: bool = False
    every: int = 1
    _count: int = 0

    def start(self, state: str) -> Start:
        """Make a state, once."""
        if state not in self.starts:
            with self.device() as world:
                STATES[state](world)
                world.running = world.own = None
                self.starts[state] = snapshot(world)
        return self.starts[state]

    @contextmanager
    def device(self, start: Start | None = None) -> Iterator[World]:
        """A device on a disk of its own."""
        self._count += 1
        place = self.folder / str(self._count)
        world = world_at(place)
        if start is not None:
            start.image.write(place)
            world.answered |= start.answered
            world.running, world.own, world.seconds = start.running, start.own, start.seconds
        Simulated.world = world
        try:
            yield world
        finally:
            close_databases()
            shutil.rmtree(place, ignore_errors=True)

    def recover(
        self, found: Start, what: object, check: Callable[[World], None], act: Act | None = None
    ) -> None:
        """Check what a device does from here on; an equal one does the same.

        Args:
            found: the device.
            what: is checked, and the rest of what that depends on.
            check: of the device; raises ViolationError.
            act: sets the world's other properties; None: those of every day.
        """
        disk = found.image.key_without(layout.SCRUB_FILE.name)  # neither a boot nor a push reads it
        key = (disk, found.answered, found.running, found.own, what)
        if key not in self.recovered:
            self.recovered[key] = ""
            with self.device(found) as world:
                if act is not None:
                    setting(world, act)
                try:
                    check(world)
                except ViolationError as error:
                    self.recovered[key] = str(error)
        require(not (why := self.recovered[key]), why)

    def case(self, key: str, check: Callable[[], None], *, always: bool = False) -> None:
        """Run one distinct case and note its violation; of a sample, if it is in it or `always`."""
        assert key not in self.keys, f"{key} twice"
        if not always and zlib.crc32(key.encode()) % self.every:
            return
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
            mock.patch.object(runs, "answering", _answering),
            mock.patch.object(permission, "believe", remembered(believe)),
            mock.patch.object(trees, "fingerprint", fingerprint),
            mock.patch.object(hashed, "_mark", _mark),
            mock.patch.object(lease, "_identity", lambda _: "1796 17"),  # the push is this process
            mock.patch.object(survey, "_of_processes", lambda *_: set()),  # no process runs here
            mock.patch.object(quiet, "be_quiet", lambda: None),  # it holds for the whole process
            mock.patch.multiple(keep, be_quiet=lambda: None, say=lambda _: None),
            mock.patch.object(quiet, "CHUNK_BYTES", 1 << 14),  # no file is longer
            mock.patch.object(state, "ROOM_BYTES", 4096),
            mock.patch("sqlite3.connect", connect),
            mock.patch("os.fsync", lambda _: None),  # the real disk is not what is tested
            mock.patch("os.sync", lambda: None),
            mock.patch("time.time", lambda: Simulated.world.clock),
            mock.patch("time.monotonic", lambda: Simulated.world.seconds),
            mock.patch("time.sleep", _sleep),
        ):
            yield made


def _mark(path: Path) -> tuple[int, int, int, int] | None:
    """As `hashed._mark`, by content: equal disks have equal records, whenever they were written."""
    if path.is_symlink() or not path.exists():
        return None
    return 1, path.stat().st_size, zlib.crc32(path.read_bytes()), 1


def _little_reserve() -> AbstractContextManager[object]:
    """A reserve of a few bytes: every disk is read and written again for each case."""
    name = "edgekit.agent.release.space.reserve"
    if find_spec(name) is None:
        return nullcontext()
    return mock.patch.object(import_module(name), "BACK_BYTES", 8192)


def fingerprint(tree: Path) -> str:
    """As `staging.trees`'s, of bytes in place of times: an equal disk then has an equal one."""
    seen = hashlib.sha256()
    for folder, folders, files in os.walk(tree):
        folders.sort()
        for name in sorted(files):
            place = f"{folder}/{name}"
            with open(place, "rb") as file:
                told = (place.removeprefix(str(tree)), os.lstat(place).st_mode, file.read())
            seen.update(repr(told).encode())
    return seen.hexdigest()


def _answering(root: Root) -> bool:
    """No process writes the ready file here, and none has ROOT on its command line."""
    return Simulated.world.running is not None and root.ready_file.exists()


def _sleep(seconds: float) -> None:
    Simulated.world.sleep(seconds)
