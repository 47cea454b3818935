"""Rollouts of a fleet's project, as its journals have them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgekit.core.digest import Digest
from edgekit.fleet.rollout.book import RolloutBook, number_of
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import RolloutStarted
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.waves import RolloutPlan, Terms
from tests.fleet.project import FleetProject


def begin(
    made: FleetProject, release: Digest, waves: list[list[str]], terms: Terms
) -> RolloutJournal:
    """Begin a rollout in these waves; nobody runs it yet."""
    kinds = {name: "any" for wave in waves for name in wave}
    _, journal = book(made).create(RolloutPlan(release, waves, kinds, terms), time.time())
    journal.append(RolloutStarted("test@here"), time.time())
    return journal


def book(made: FleetProject) -> RolloutBook:
    """The rollouts of a project."""
    return RolloutBook(made.folder / ".edgekit" / "rollouts")


@dataclass(frozen=True)
class Stand:
    """How the newest rollout stands, read from its journal, whose chain is verified."""

    number: int
    rollout: Rollout

    def state(self, device: str) -> DeviceState:
        """Where a device is in it."""
        return self.rollout.devices[device].state

    def reason(self, device: str) -> str:
        """Why a device failed or is away."""
        return self.rollout.devices[device].reason


def newest(made: FleetProject) -> Stand:
    """How the newest rollout stands."""
    journal = book(made).journal()
    return Stand(number_of(journal), journal.replay())
