"""What the page shows of a project: its groups, and how its newest rollouts stand."""

from __future__ import annotations

from pathlib import Path

from edgekit.cli.project import Project
from edgekit.cli.rollout.found import read
from edgekit.core.digest import short
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.rollout.book import number_of
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.gateway.page.facts import ProjectReader
from edgekit.gateway.page.told import ProjectTold, RolloutSummary

NEWEST = 5  # rollouts


def reader_of(here: Project) -> ProjectReader:
    """A reader of this project, which remembers what has not changed.

    `fleet.toml` is read once: an inventory that it names may be a program.
    """
    groups: list[dict[str, list[str]]] = []
    seen: dict[int, tuple[tuple[object, ...], RolloutSummary]] = {}

    def now() -> ProjectTold:
        if not groups:
            groups.append(_groups(here))
        rollouts = []
        for number in reversed(here.rollouts.numbers()[-NEWEST:]):
            journal = here.rollouts.journal(number)
            stamp = _stamp(journal)
            if number not in seen or seen[number][0] != stamp:
                try:
                    seen[number] = stamp, _summary(here, journal)
                except VerificationError:  # damaged: `edgekit rollouts` says so
                    continue
                except EdgekitError:  # locked for now, of a later edgekit, or ended before its plan
                    if number not in seen:
                        continue
            rollouts.append(seen[number][1])
        return ProjectTold(groups[0], rollouts)

    return now


def _groups(here: Project) -> dict[str, list[str]]:
    if not (here.folder / "fleet.toml").exists():
        return {}
    try:
        return here.fleet().groups
    except EdgekitError:  # `edgekit fleet check` says what is wrong with it
        return {}


def _stamp(journal: RolloutJournal) -> tuple[object, ...]:
    """Changes with each event, and with the process that runs the rollout."""
    path = journal.path
    return tuple(map(_state_of, (path, Path(f"{path}-wal"), path.with_suffix(".lock"))))


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _summary(here: Project, journal: RolloutJournal) -> RolloutSummary:
    found = read(here, journal)
    told = found.told
    return RolloutSummary(
        number=number_of(journal),
        release=found.release or short(told.release),
        phase=str(told.phase),
        wave=told.wave,
        waves=told.waves,
        wave_phase=str(told.wave_phase),
        started=told.started,
        changed=told.changed,
        over=told.over,
        held=bool(told.holder),
        counts={str(state): count for state, count in told.counts.items()},
    )
