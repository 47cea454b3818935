"""Whole rollouts as their journals have them, told by the fleet that is not there."""

from __future__ import annotations

import random

import msgspec

from edgekit.core.digest import Digest, encode_hook
from edgekit.fleet.rollout import journal as journal_file
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    PauseOrdered,
    ResumeOrdered,
    RollbackOrdered,
    RolloutStarted,
)
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import RolloutPlan, Terms, waves_of
from tests.fakes.rollout_fleet import FakeDevice, FakeFleet

RELEASE = Digest.of(b"release")
BEGIN = 1_764_424_800.0  # 2025-11-29 14:00 UTC
NIGHT = 15 * 3600.0
BY = "ada@desk"


def fleet(count: int = 10, terms: Terms | None = None, seed: int = 7) -> FakeFleet:
    """A fleet of two classes, in waves, that has not begun."""
    habits = {f"{('pi', 'jetson')[n % 2]}-{n:04}": FakeDevice() for n in range(count)}
    kinds = {name: name.split("-", maxsplit=1)[0] for name in habits}
    plan = RolloutPlan(RELEASE, waves_of(kinds, RELEASE), kinds, terms or Terms())
    return FakeFleet(plan, habits, random.Random(seed), now=BEGIN)


def write(journal: RolloutJournal, made: FakeFleet) -> None:
    """Add a story's events to a journal that has its plan, in one commit: a test has no power
    cut to fear."""
    with journal._open() as db:
        for event, at in made.journal:
            what = msgspec.json.encode(event, enc_hook=encode_hook)
            journal_file._append(db, what, at)


def started(made: FakeFleet) -> FakeFleet:
    """The same, begun."""
    made.tell(RolloutStarted(BY))
    return made


def good(count: int = 10) -> FakeFleet:
    """Every device gets the release."""
    made = started(fleet(count))
    made.run()
    return made


def bad_canary() -> FakeFleet:
    """The canary fails, and the rollout waits for a person."""
    made = fleet()
    made.devices[made.plan.waves[0][0]].fails = "soak"
    started(made).run()
    assert made.rollout.phase == RolloutPhase.PAUSED
    return made


def two_nights() -> FakeFleet:
    """It waits for a word after each wave, a device is away, one fails; all of it goes back."""
    made = fleet(24, Terms(confirm=True, parallel=4, failures=2))
    made.devices[made.plan.waves[-1][0]].fails = "soak"
    made.devices[made.plan.waves[-1][3]].away = 4
    started(made).run()
    while made.rollout.phase == RolloutPhase.PAUSED:
        made.now += NIGHT
        made.tell(ResumeOrdered(BY))
        made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    made.now += 1800
    made.tell(RollbackOrdered("bob@desk"))
    made.run()
    assert RolloutPhase(made.rollout.phase) is RolloutPhase.BACK
    return made


def paused(count: int = 24) -> FakeFleet:
    """A person pauses it in its last wave."""
    made = started(fleet(count, Terms(parallel=4)))
    while made.rollout.wave + 1 < len(made.rollout.waves):
        assert made.step()
    for _ in range(6):
        assert made.step()
    made.tell(PauseOrdered(BY, "lunch <b>& rest</b>"))
    return made


def aborted() -> FakeFleet:
    """The same, aborted."""
    made = paused()
    made.run()
    made.tell(AbortOrdered(BY))
    return made


def large(count: int = 1000) -> FakeFleet:
    """A large fleet with habits."""
    made = fleet(count, Terms(parallel=64, failures=20, failure_share=0.2))
    for name, device in made.devices.items():
        if name not in made.plan.waves[0]:
            device.fails = made.chance.choice([""] * 60 + ["stage", "soak"])
            device.away = made.chance.choice([0] * 40 + [2])
    started(made).run()
    return made
