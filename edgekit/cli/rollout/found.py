"""A project's rollouts for the verbs: which one is meant, how it stands, and who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgekit.cli import project, render
from edgekit.fleet.rollout.book import holder, number_of
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.telling.timeline import Follower
from edgekit.fleet.rollout.telling.told import RolloutTold, tell
from edgekit.fleet.rollout.waves import RolloutPlan

NumberArgument = Annotated[
    int | None, typer.Argument(metavar="N", help="Number of a rollout; default: the newest.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class FoundRollout(msgspec.Struct, frozen=True):
    """A rollout as its verified journal leaves it.

    Attributes:
        release: name and version of its bundle; empty where the store does not have it any more.
        rows: of the journal; `take_new` adds to them.
    """

    here: project.Project
    number: int
    journal: RolloutJournal
    plan: RolloutPlan
    release: str
    follower: Follower
    rows: list[RolloutRow]

    @property
    def told(self) -> RolloutTold:
        """How it stands now."""
        head = self.rows[-1].hash if self.rows else self.journal.read()[2]
        return tell(self.number, self.follower.rollout, self.rows, head, holder(self.journal))

    def as_json(self) -> dict[str, Any]:
        """How it stands, with the name of its bundle, for `--json`."""
        return {**msgspec.to_builtins(self.told, enc_hook=str), "name": self.release}


def find(project_folder: Path | None, number: int | None = None) -> FoundRollout:
    """Read a rollout; the newest without a number.

    Raises:
        UsageError: there is none, or none of that number.
        VerificationError: a row of its journal is not as it was written.
    """
    here = project.find(project_folder)
    return read(here, here.rollouts.journal(number))


def read(here: project.Project, journal: RolloutJournal) -> FoundRollout:
    """Read a rollout's journal; raises as `find`."""
    plan, rows, _ = journal.read()
    follower = Follower(plan)
    with render.working(f"reading {len(rows)} events"):
        for row in rows:
            follower.take(row)
    release = next(
        (name for name, digest in here.store.names().items() if digest == plan.release), ""
    )
    return FoundRollout(here, number_of(journal), journal, plan, release, follower, rows)
