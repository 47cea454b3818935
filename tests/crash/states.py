"""The table of states: how a device comes to each, from an empty folder on.

A row is a name and a function that makes the state in a `World` by real pushes, boots and kills.
The release that is wanted is always `TWO` under the configuration `new`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgekit.agent.release.root import Root
from edgekit.core.digest import Digest
from tests.crash.bundles import Bundle, config_bytes, make_bundle
from tests.crash.disk.calls import KilledError
from tests.crash.signing import Project
from tests.crash.world import NOW, Simulated, World

ONE, TWO, THREE = make_bundle("one"), make_bundle("two"), make_bundle("three", "other")
OLD, NEW = config_bytes("old"), config_bytes("new")
BUNDLES = {bundle.digest: bundle for bundle in (ONE, TWO, THREE)}
PROJECT = Project((ONE, THREE, TWO), NOW)

Make = Callable[[World], None]
TRIED, STARTED = 2, 3  # effects of a new trial until its try is on record, and its agent starts


def _down(world: World, release: Bundle, config: bytes) -> None:
    """The device goes down as soon as the activation would start a supervisor."""
    world.offer(release.digest)
    Simulated.goes_down = True
    try:
        world.activate(release.digest, config)
    except KilledError:
        pass
    finally:
        Simulated.goes_down = False
    world.running = None


def _cut_boot(world: World, effects: int) -> None:
    """A boot whose supervisor goes down after so many effects."""
    world.stops_at = effects
    try:
        world.boot()
    except KilledError:
        pass
    finally:
        world.stops_at = None
    world.running = None
    world.root.ready_file.unlink(missing_ok=True)


def staged_there(world: World, release: Bundle) -> None:
    """Offered, sent and staged."""
    world.send(release.digest, world.offer(release.digest))
    world.verb("stage", release.digest)


def empty(world: World) -> None:
    world.root.create()


def one_good(world: World) -> None:
    world.push(ONE.digest, OLD)


def good_and_previous(world: World) -> None:
    world.push(ONE.digest, OLD)
    world.push(THREE.digest, OLD)


def offered(world: World) -> None:
    one_good(world)
    world.offer(TWO.digest)


def half_sent(world: World) -> None:
    """A part has its first half, and another one wrong bytes."""
    offered(world)
    for number, (digest, data) in enumerate(TWO.blobs.items()):
        if not world.root.store.has(digest):
            half = data[: len(data) // 2]
            world.root.store.part_path(digest).write_bytes(half if number % 2 else bytes(len(half)))


def staged(world: World) -> None:
    one_good(world)
    staged_there(world, TWO)


def first_staged(world: World) -> None:
    empty(world)
    staged_there(world, TWO)


def trial_recorded(world: World) -> None:
    staged(world)
    _down(world, TWO, NEW)


def trial_tried(world: World) -> None:
    trial_recorded(world)
    _cut_boot(world, TRIED)


def going_back(effects: int) -> Make:
    """A release whose way back was cut after so many effects."""

    def make(world: World) -> None:
        trial_recorded(world)
        world.failing.add((TWO.digest, NEW))
        _cut_boot(world, STARTED + effects)
        world.failing.clear()

    return make


def bad(world: World) -> None:
    trial_recorded(world)
    world.failing.add((TWO.digest, NEW))
    world.boot()
    world.failing.clear()


def first_trial_recorded(world: World) -> None:
    first_staged(world)
    _down(world, TWO, NEW)


def first_trial_tried(world: World) -> None:
    first_trial_recorded(world)
    _cut_boot(world, TRIED)


def first_failed(world: World) -> None:
    first_trial_recorded(world)
    world.failing.add((TWO.digest, NEW))
    world.boot()
    world.failing.clear()


def two_good(world: World) -> None:
    """`TWO` is current; what is wanted is only a new configuration."""
    world.push(ONE.digest, OLD)
    world.push(TWO.digest, OLD)


def config_recorded(world: World) -> None:
    two_good(world)
    _down(world, TWO, NEW)


def config_tried(world: World) -> None:
    config_recorded(world)
    _cut_boot(world, TRIED)


def config_going_back(effects: int) -> Make:
    """A configuration whose way back was cut after so many effects."""

    def make(world: World) -> None:
        config_recorded(world)
        world.failing.add((TWO.digest, NEW))
        _cut_boot(world, STARTED + effects)
        world.failing.clear()

    return make


def rolled_back(world: World) -> None:
    two_good(world)
    world.verb("rollback")


def unproven(world: World) -> None:
    """The trial could not reach the broker: the old release runs again."""
    trial_recorded(world)
    world.broker_down = True
    world.boot()
    world.broker_down = False


def configuration_unproven(world: World) -> None:
    """The same of a configuration alone: it waits as `agent.toml.next`."""
    config_recorded(world)
    world.broker_down = True
    world.boot()
    world.broker_down = False


def first_unproven(world: World) -> None:
    """The first release of a device never reached the broker; it goes on trying."""
    first_trial_recorded(world)
    world.broker_down = True
    world.boot()
    world.broker_down = False


def three_good(world: World) -> None:
    """The first of three is garbage."""
    good_and_previous(world)
    world.push(TWO.digest, OLD)


def pinned(world: World) -> None:
    """An old release is kept."""
    good_and_previous(world)
    world.verb("gc", "--pin", ONE.digest.hex)
    world.push(TWO.digest, OLD)


def stopped(world: World) -> None:
    """An operator stopped the device."""
    good_and_previous(world)
    world.verb("stop")


def damaged(world: World) -> None:
    """Of `previous` a blob, a file of the release and a file of a tree have lost bits."""
    world.push(THREE.digest, OLD)
    world.push(ONE.digest, OLD)
    for place in (
        world.root.store.path(_only(THREE, "model.data")),
        world.root.release(THREE.digest) / "model" / "genai_config.json",
        next(world.root.release(THREE.digest).joinpath("runtime").resolve().rglob("data.bin")),
    ):
        data = place.read_bytes()
        place.unlink()  # no hard link changes with it
        place.write_bytes(b"X" + data[1:])


def _only(bundle: Bundle, title: str) -> Digest:
    return Digest.of(bundle.model[title])


STATES: dict[str, Make] = {
    "empty": empty,
    "one good": one_good,
    "good and previous": good_and_previous,
    "offered": offered,
    "half sent": half_sent,
    "staged": staged,
    "first staged": first_staged,
    "trial recorded": trial_recorded,
    "trial tried": trial_tried,
    "going back 1": going_back(1),
    "going back 2": going_back(2),
    "going back 3": going_back(3),
    "bad": bad,
    "first trial recorded": first_trial_recorded,
    "first trial tried": first_trial_tried,
    "first failed": first_failed,
    "two good": two_good,
    "configuration recorded": config_recorded,
    "configuration tried": config_tried,
    "configuration going back 1": config_going_back(1),
    "configuration going back 2": config_going_back(2),
    "rolled back": rolled_back,
    "unproven": unproven,
    "configuration unproven": configuration_unproven,
    "first unproven": first_unproven,
    "three good": three_good,
    "pinned": pinned,
    "stopped": stopped,
    "damaged": damaged,
}


def world_at(folder: Path) -> World:
    """A world whose device is this folder."""
    return World(Root(folder), BUNDLES, PROJECT)
