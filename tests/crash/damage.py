"""Bytes that changed on the disk, sources that lie, and clocks that are wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from tests.crash.acts import ACTS, Act
from tests.crash.bench import Bench, Start, snapshot
from tests.crash.cases import (
    check_boot,
    check_rest,
    check_retry,
    prepared,
    ready,
    retry,
    run,
)
from tests.crash.disk.shim import Shim
from tests.crash.states import OLD, ONE, PROJECT, TWO
from tests.crash.world import NOW, REPORTED, ViolationError, World, require

DAMAGED_FOLDERS = ("blobs",)  # and `trees` once a push mends them
DAMAGED = ("one good", "two good", "half sent")
LIED_TO = ("empty", "one good", "half sent")
LATEST = NOW + 6 * 365 * 86_400  # no metadata that is signed now lives longer
CLOCKS = {
    "1970": (0.0, 0.0),
    "2099, then 1970": (4_070_908_800.0, 0.0),
    "1970, then 2099": (0.0, 4_070_908_800.0),
}

Change = Callable[[bytes], bytes | None]


def _flip(place: Callable[[bytes], int], bit: int) -> Change:
    def change(data: bytes) -> bytes:
        at = place(data)
        return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    return change


CHANGES: dict[str, Change] = {
    "first bit": _flip(lambda _: 0, 1),
    "a bit in the middle": _flip(lambda data: len(data) // 2, 16),
    "last bit": _flip(lambda data: len(data) - 1, 128),
    "half": lambda data: data[: len(data) // 2],
    "nothing left": lambda _: b"",
    "zeros": lambda data: bytes(len(data)),
    "longer": lambda data: data + b"more",
    "gone": lambda _: None,
}


def _files(world: World) -> Iterator[str]:
    """Relative paths of what a device keeps of releases, each file once."""
    root, seen = str(world.root.path), set()
    for top in DAMAGED_FOLDERS:
        for folder, _, names in os.walk(f"{root}/{top}"):
            for name in sorted(names):
                place = f"{folder}/{name}"
                if os.stat(place).st_ino not in seen and os.stat(place).st_size:
                    seen.add(os.stat(place).st_ino)
                    yield place.removeprefix(f"{root}/")


def run_damage(bench: Bench) -> None:
    """Every change of every file, and then a push of either release."""
    for state in DAMAGED:
        start = bench.start(state)
        with bench.device(start) as world:
            files = list(_files(world))
        for file in files:
            for name, change in CHANGES.items():
                key = f"{state} | {file} | {name}"
                bench.case(key, partial(_damage, bench, start, file, change))


def _damage(bench: Bench, start: Start, file: str, change: Change) -> None:
    with bench.device(start) as world:
        world.boot()
        path = world.root.path / file
        data = path.read_bytes()
        path.chmod(0o644)  # it is changed in place: hard links have their bytes in common
        changed = change(data)
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        bench.recover(snapshot(world), "both", _both)


def _both(world: World) -> None:
    """Both releases are whole again once they were pushed."""
    check_retry(world, previous=False)
    try:
        world.push(ONE.digest, OLD)
    except REPORTED as error:
        raise ViolationError(f"the push of the other release fails: {error}") from error
    require(not (why := world.unsound(ONE.digest)), f"it is not mended: {why}")
    require(world.running == (ONE.digest, OLD), "the other release does not run")


def run_lies(bench: Bench) -> None:
    """A controller, or what lies between, sends other bytes than it was asked for."""
    for state in LIED_TO:
        start = bench.start(state)
        for number, (digest, data) in enumerate(TWO.blobs.items()):
            lies = {name: change(data) for name, change in CHANGES.items()}
            for name, sent in (lies | {"another": TWO.manifest}).items():
                for size in sorted({len(data), len(sent), 0} if sent is not None else ()):
                    key = f"{state} | blob {number} | {name} | {size} bytes adopted"
                    bench.case(key, partial(_lie, bench, start, digest, sent or b"", size))
        for name, change in CHANGES.items():
            manifest = change(TWO.manifest) or b""
            bench.case(f"{state} | manifest | {name}", partial(_odd, bench, start, manifest))


def _lie(bench: Bench, start: Start, digest: Digest, sent: bytes, size: int) -> None:
    with bench.device(start) as world:
        world.boot()
        world.offer(TWO.digest)
        there = world.root.store.has(digest)
        world.root.store.part_path(digest).write_bytes(sent)
        if not there:
            _refused(world, "stage", digest, "--adopt", str(size))
            require(not world.root.store.has(digest), "other bytes became a blob")
        check_rest(world, start.answered, "after the lie")
        bench.recover(snapshot(world), ("retry", ""), retry)


def _odd(bench: Bench, start: Start, manifest: bytes) -> None:
    with bench.device(start) as world:
        world.boot()
        _refused(world, "stage", TWO.digest, "--offer", stdin=PROJECT.offer(manifest))
        check_rest(world, start.answered, "after the lie")
        bench.recover(snapshot(world), ("retry", ""), retry)


def _refused(world: World, *arguments: str, stdin: bytes = b"") -> Exception:
    try:
        world.verb(*arguments, stdin=stdin)
    except REPORTED as error:
        return error
    raise ViolationError(f"{arguments[0]} takes it")


def run_clocks(bench: Bench) -> None:
    """Every act at every state under a wrong clock, also one that jumps before the next push."""
    for name, act in ACTS.items():
        for state in act.states:
            start = prepared(bench, state, act)
            for clock, times in CLOCKS.items():
                key = f"{state} | {name} | clock {clock}"
                bench.case(key, partial(_clock, bench, start, act, *times))


def _clock(bench: Bench, start: Start, act: Act, during: float, after: float) -> None:
    with bench.device(start) as world:
        world.clock = during
        ready(world, act)
        before = frozenset(world.answered)
        run(world, act, Shim(str(world.root.path)))
        world.clock = after
        check_boot(world, before, "after the boot")
        if after > LATEST:  # all metadata has expired then, and nothing new is taken
            offer = PROJECT.offer(TWO.manifest)
            error = _refused(world, "stage", TWO.digest, "--offer", stdin=offer)
            named = isinstance(error, EdgekitError) and "clock" in error.next_step
            require(named, "the refusal does not name the clock")
            check_rest(world, before, "after the refusal")
            world.clock = NOW
        check_retry(world)
