"""The table of acts: what runs on a device while a fault comes. A new act is a new row.

`prepare` runs before the fault is armed, `run` with it. The act's process dies with a fault of the
kind `kill`; after an error it has ended, and the device lives on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from edgekit.agent.release.space import reserve, room
from edgekit.agent.release.state import Releases
from edgekit.agent.release.upkeep.keep import keep_up
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState
from edgekit.core.room import DiskRoom
from edgekit.fleet.receive import receive
from tests.crash.bundles import Bundle
from tests.crash.signing import ROTATED
from tests.crash.states import NEW, OLD, ONE, PROJECT, STATES, THREE, TWO, staged_there
from tests.crash.world import World, require, unshimmed

Run = Callable[[World], object]
LEASE = ("--take", "ada0" * 4, "--holder", "ada@desk", "--about", "rollout-1")


def nothing(_: World) -> None:
    """No preparation."""


@dataclass(frozen=True)
class Act:
    """One act.

    Attributes:
        run: what is tried.
        states: the rows of `STATES` at which it is tried.
        prepare: what comes before it.
        failing: whether the wanted release's agent ends at once.
        supervisor: whether the process is the device's supervisor, which a manager starts again.
        broker_down: whether no release on trial reaches the broker.
        unstartable: whether the supervisor of a new release cannot start.
        moment: of the project that signs.
        sampled: whether errors come only at the first call of each kind in each function; kills
            and power cuts come at all.
        damaged: whether a release that is not current may be damaged, also after it.
        holds: what else is checked after the fault; raises ViolationError.
    """

    run: Run
    states: tuple[str, ...]
    prepare: Run = nothing
    failing: bool = False
    supervisor: bool = False
    broker_down: bool = False
    unstartable: bool = False
    moment: str = ""
    sampled: bool = False
    damaged: bool = False
    holds: Run = nothing


_LACK_TWO = ("empty", "one good", "good and previous", "offered", "half sent", "stopped", "damaged")
_HAVE_TWO = tuple(name for name in STATES if name not in _LACK_TWO)
_TRIALS = tuple(
    name for name in STATES if "recorded" in name or "tried" in name or "going back" in name
)
_SETTLED = (
    "unproven",
    "one good",
    "good and previous",
    "two good",
    "bad",
    "rolled back",
    "first failed",
)


def _offer(world: World) -> None:
    world.offer(TWO.digest)


def _send(world: World) -> None:
    world.send(TWO.digest, world.offer(TWO.digest))


def _stage(world: World) -> None:
    world.verb("stage", TWO.digest)


def _boot(world: World) -> None:
    world.power_on()


def _send_rotated(world: World) -> None:
    world.moment = ROTATED
    _send(world)


def _stage_rotated(world: World) -> None:
    staged_there(world, TWO)  # before the rotation
    world.moment = ROTATED
    _offer(world)


def _refused(world: World) -> None:
    """A manifest that the metadata does not name."""
    world.verb("stage", TWO.digest, "--offer", stdin=PROJECT.offer(ONE.manifest))


def _no_room(world: World) -> None:
    def full(missing: int, unpacked: int, _: int, disk: int) -> DiskRoom:
        return DiskRoom(missing, unpacked, 0, disk)

    with mock.patch.object(room, "DiskRoom", full):
        _offer(world)


def _stick(world: World) -> Path:
    """The folder of an export, outside of ROOT."""
    return world.root.path.parent / "stick"


def _export(world: World) -> None:
    """What `edgekit export` writes, of the wanted release."""
    stick, files = _stick(world), PROJECT.metadata[""]
    if stick.exists():
        return
    (stick / "metadata").mkdir(parents=True)
    (stick / layout.BLOBS).mkdir(parents=True)
    texts = {f"{number}.root": text for number, text in enumerate(files.roots, 1)}
    texts |= {"timestamp": files.timestamp, "1.snapshot": files.snapshot}
    texts |= {"1.targets": files.targets}
    for name, text in texts.items():
        (stick / "metadata" / f"{name}.json").write_text(text)
    for digest, data in (TWO.blobs | {TWO.digest: TWO.manifest}).items():
        (stick / layout.blob(digest)).write_bytes(data)


def _stage_from(world: World) -> None:
    world.verb("stage", TWO.digest, "--from", str(_stick(world)))


def _tuned(world: World) -> None:
    world.root.tuning_file.write_text(f'[{{"key": "{ONE.digest} 4"}}]')


def _prepare(release: Bundle) -> Run:
    return lambda world: staged_there(world, release)


def _scrub(world: World) -> None:
    world.verb("scrub", "--rate", "0")


def _mended(world: World) -> None:
    """A scrub that is not disturbed mends the tree and the link, and takes the blob's name."""
    world.root.scrub_file.unlink(missing_ok=True)  # it begins anew
    _scrub(world)
    world.push(THREE.digest, OLD)
    require(not (why := world.unsound(THREE.digest)), f"not mended: {why}")


def _give_up(world: World) -> None:
    """A rollback of a new configuration: what it answers is so."""
    world.verb("rollback")
    with unshimmed():
        row = Releases(world.root.path).get(TWO.digest)
        there = world.root.linked(world.root.current), world.root.agent_config.read_bytes()
        require(there == (TWO.digest, OLD), "a rollback that succeeded left something else")
        require(row is not None and row.state == ReleaseState.GOOD, "it is still on trial")
        require(world.running in (None, there), "the agent still runs what was given up")


def _keeps_the_release(world: World) -> None:
    """Whatever came in between, the release before it is two steps back: nobody asked for that."""
    require(world.root.linked(world.root.current) == TWO.digest, "it went two steps back")


FIRST_AGENT = {"edgekit/__init__.py": b"first", "edgekit/agent.py": b"agent" * 99}


def _bootstrap_arrives(world: World) -> None:
    """The tar of a first contact lies in its part."""
    from edgekit.bundle.tar import plain_tar

    tar = plain_tar(FIRST_AGENT.items())
    (world.root.path / f".bootstrap-{Digest.of(tar).hex[:12]}.part").write_bytes(tar)


def _first_contact(world: World) -> None:
    part = next(world.root.path.glob(".bootstrap-*.part"), None)
    if part is not None:
        name = part.name.removeprefix(".bootstrap-").removesuffix(".part")
        receive(world.root.path, name, part.stat().st_size)


def _has_first_agent(world: World) -> None:
    """The controller believes a link `bootstrap`; without one it begins again."""
    link = world.root.path / layout.BOOTSTRAP
    if not link.is_symlink():
        _bootstrap_arrives(world)
        _first_contact(world)
    for name, data in FIRST_AGENT.items():
        file = link / name
        require(file.exists() and file.read_bytes() == data, f"bootstrap: {name} is not whole")


ACTS: dict[str, Act] = {
    "offer": Act(_offer, ("empty", "one good", "good and previous", "half sent", "bad")),
    "send": Act(_send, ("empty", "half sent"), _offer),
    "stage": Act(_stage, ("empty", "one good", "good and previous"), _send),
    "stage again": Act(_stage, ("staged", "bad", "two good", "trial tried"), _offer),
    "activate": Act(lambda world: world.activate(TWO.digest, NEW), _HAVE_TWO, _offer),
    "activate, which fails": Act(
        lambda world: world.activate(TWO.digest, NEW), ("staged", "bad", "two good"), _offer, True
    ),
    "boot": Act(_boot, (*_TRIALS, *_SETTLED), supervisor=True),
    "boot, which fails": Act(_boot, _TRIALS, failing=True, supervisor=True),
    "boot without a broker": Act(_boot, _TRIALS, supervisor=True, broker_down=True),
    "try again": Act(lambda world: world.boot(retry=TWO.digest), ("unproven",), supervisor=True),
    "try again, which fails": Act(
        lambda world: world.boot(retry=TWO.digest), ("unproven",), failing=True, supervisor=True
    ),
    "roll back": Act(lambda world: world.verb("rollback"), ("two good", "good and previous")),
    "roll back a configuration": Act(
        _give_up,
        ("configuration tried", "configuration recorded", "configuration unproven"),
        holds=_keeps_the_release,
    ),
    "offer with other keys": Act(
        _offer, ("empty", "one good", "staged", "two good"), moment=ROTATED
    ),
    "collect": Act(lambda world: world.verb("gc"), ("good and previous", "staged", "two good")),
    "hold the reserve": Act(lambda world: reserve.hold(world.root), ("staged", "two good")),
    "spend the reserve": Act(
        lambda world: reserve.spend(world.root, Releases(world.root.path).widen),
        ("staged", "bad"),
        lambda world: reserve.hold(world.root),
    ),
    "give the reserve": Act(
        lambda world: reserve.give(world.root), ("staged",), lambda world: reserve.hold(world.root)
    ),
    "state": Act(lambda world: world.verb("state"), ("empty", "two good")),
    "take the lease": Act(lambda world: world.verb("lease", *LEASE), ("empty", "two good")),
    "give the lease": Act(
        lambda world: world.verb("lease", "--give", LEASE[1]),
        ("two good",),
        lambda world: world.verb("lease", *LEASE),
    ),
    "activate with a lease": Act(
        lambda world: world.activate(TWO.digest, NEW),
        ("staged",),
        lambda world: world.verb("lease", *LEASE),
    ),
    "activate without a broker": Act(
        lambda world: world.activate(TWO.digest, NEW),
        ("staged", "first staged", "two good"),
        _offer,
        broker_down=True,
    ),
    "activate, cannot start": Act(
        lambda world: world.activate(TWO.digest, NEW),
        ("staged", "first staged", "two good"),
        _offer,
        unstartable=True,
    ),
    "activate another": Act(
        lambda world: world.activate(THREE.digest, OLD),
        ("unproven", "configuration unproven", "trial tried"),
        _prepare(THREE),
    ),
    "activate an older one": Act(
        lambda world: world.activate(ONE.digest, OLD), ("three good",), _prepare(ONE)
    ),
    "stage with other keys": Act(_stage, ("one good", "staged"), _send_rotated, moment=ROTATED),
    "activate with other keys": Act(
        lambda world: world.activate(TWO.digest, NEW),
        ("one good", "good and previous"),
        _stage_rotated,
        moment=ROTATED,
    ),
    "offer, refused": Act(_refused, ("empty", "one good", "staged")),
    "offer, no room": Act(_no_room, ("empty", "one good", "good and previous")),
    "stage from a folder": Act(_stage_from, ("empty", "one good", "half sent", "bad"), _export),
    "crash loop": Act(
        lambda world: world.boot(crashes=True), ("good and previous", "two good"), supervisor=True
    ),
    "upkeep": Act(
        lambda world: keep_up(world.root),
        ("three good", "bad"),
        sampled=True,
    ),
    "scrub": Act(_scrub, ("good and previous", "trial tried"), sampled=True),
    "scrub, damaged": Act(_scrub, ("damaged",), sampled=True, damaged=True, holds=_mended),
    "collect, pinned": Act(lambda world: world.verb("gc"), ("three good", "pinned")),
    "prune the way back": Act(
        lambda world: world.verb("gc", "--previous"), ("three good", "pinned", "two good")
    ),
    "pin": Act(lambda world: world.verb("gc", "--pin", ONE.digest.hex), ("two good", "pinned")),
    "unpin": Act(lambda world: world.verb("gc", "--unpin", ONE.digest.hex), ("pinned",)),
    "tune": Act(lambda world: world.verb("tune"), ("one good", "two good"), _tuned),
    "stop": Act(lambda world: world.verb("stop"), ("two good", "bad", "stopped")),
    "start": Act(lambda world: world.verb("start"), ("stopped",)),
    "activate, stopped": Act(
        lambda world: world.activate(TWO.digest, NEW), ("stopped",), _prepare(TWO)
    ),
    "boot, stopped": Act(_boot, ("stopped",), supervisor=True),
    "first contact": Act(
        _first_contact, ("empty", "one good"), _bootstrap_arrives, holds=_has_first_agent
    ),
}
