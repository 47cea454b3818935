"""What the page shows of a project: its groups, and how its newest rollouts stand."""

from __future__ import annotations

import math
import time
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
AGAIN_SECONDS = 60.0


def reader_of(here: Project) -> ProjectReader:
    """A reader of this project, which remembers what has not changed."""
    groups = _Groups(here)
    seen: dict[int, tuple[tuple[object, ...], RolloutSummary]] = {}

    def now() -> ProjectTold:
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
        return ProjectTold(groups.now(time.monotonic()), rollouts)

    return now


class _Groups:
    """The groups of `fleet.toml`, which is read again when it has changed.

    An inventory that it names may be a program. Where that fails, or the file is broken, the groups
    are those from before, and it is tried again after `AGAIN_SECONDS`.
    """

    def __init__(self, here: Project) -> None:
        self._here = here
        self._stamp: tuple[int, int] | None = None
        self._again_at = math.inf
        self._last: dict[str, list[str]] = {}

    def now(self, now: float) -> dict[str, list[str]]:
        """The groups; `now` is in seconds of `time.monotonic`."""
        stamp = _state_of(self._here.folder / "fleet.toml")
        if stamp == self._stamp and now < self._again_at:
            return self._last
        self._stamp, self._again_at = stamp, math.inf
        try:
            self._last = self._here.fleet().groups if stamp else {}
        except EdgekitError:  # `edgekit fleet check` says what is wrong with it
            self._again_at = now + AGAIN_SECONDS
        return self._last


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
