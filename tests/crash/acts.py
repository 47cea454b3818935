"""The table of acts: what runs on a device while a fault comes. A new act is a new row.

`prepare` runs before the fault is armed, `run` with it. The act's process dies with a fault of the
kind `kill`; after an error it has ended, and the device lives on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.agent.release.space import reserve
from edgekit.agent.release.state import Releases
from tests.crash.signing import ROTATED
from tests.crash.states import NEW, STATES, TWO
from tests.crash.world import World

Run = Callable[[World], object]


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
        moment: of the project that signs.
    """

    run: Run
    states: tuple[str, ...]
    prepare: Run = nothing
    failing: bool = False
    supervisor: bool = False
    broker_down: bool = False
    moment: str = ""


_HAVE_TWO = tuple(
    name
    for name in STATES
    if name not in ("empty", "one good", "good and previous", "offered", "half sent")
)
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
    world.boot()


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
}
