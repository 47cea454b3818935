"""`state.db`: the releases of a device and their states, recorded before each action.

Later and earlier agents use the same file: a push brings a later agent, a rollback an earlier one.
The agent reads and writes only the columns below and leaves the columns of a later version alone.
A state that this version does not know counts as `staged`: the release's folder is whole, and only
a trial can tell whether the release answers. `agent state` shows such a state as it is recorded.

On a full disk a verdict must still be recorded. `widen` gives the file free pages, and the rollback
journal its length; the journal is kept (`journal_mode=PERSIST`). A later change then takes no new
block of the disk, which was measured on ext4 and tmpfs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState, after
from edgekit.errors import EdgekitError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS releases (
    digest TEXT PRIMARY KEY,
    name   TEXT NOT NULL,
    version TEXT NOT NULL,
    state  TEXT NOT NULL,
    since  REAL NOT NULL,          -- Unix seconds
    tries  INTEGER NOT NULL DEFAULT 0, -- supervisors that started it during this trial
    reason TEXT NOT NULL DEFAULT ''
)
"""
BUSY_SECONDS = 10.0
MAX_REASON = 4000  # characters; a log's last lines may be long
HISTORY = 20  # releases without a folder whose rows stay
ROOM_BYTES = 64 << 10  # of free pages, and of the journal: 8 changes with the longest reason


@dataclass(frozen=True, slots=True)
class Release:
    """One release: a row of the table."""

    digest: Digest
    name: str
    version: str
    state: str
    since: float
    tries: int
    reason: str

    @property
    def known_state(self) -> ReleaseState | None:
        """The state, or None if only a later version knows it."""
        try:
            return ReleaseState(self.state)
        except ValueError:
            return None

    def to_dict(self) -> dict[str, object]:
        """The row as `agent state` prints it."""
        return asdict(self)


_COLUMNS = ", ".join(field.name for field in fields(Release))
_STAGE = """
INSERT INTO releases (digest, name, version, state, since, tries, reason)
VALUES (?, ?, ?, ?, ?, 0, '')
ON CONFLICT (digest) DO UPDATE SET name = excluded.name, version = excluded.version,
    state = excluded.state, since = excluded.since, tries = 0, reason = ''
"""


class StateFileError(EdgekitError):
    """`state.db` cannot be read or written: a full disk, a missing right, a damaged file."""


class Releases:
    """The releases of one device; every method raises StateFileError if the file fails."""

    def __init__(self, root: Path) -> None:
        self._path = root / layout.RELEASES_DB

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as db, db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("PRAGMA journal_mode=PERSIST")
                db.execute(_SCHEMA)
                yield db
        except sqlite3.Error as error:
            raise StateFileError(
                f"{self._path} cannot be used",
                str(error),
                "check the free space and the rights there, then run it again",
            ) from error

    def widen(self) -> None:
        """Make the next changes need no new block of the disk.

        Raises:
            StateFileError: the disk has no room for it.
        """
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS room (filler BLOB)")
            db.execute("INSERT INTO room VALUES (zeroblob(?))", (ROOM_BYTES,))
        with self._open() as db:  # to overwrite the pages makes the journal as long
            db.execute("UPDATE room SET filler = randomblob(?)", (ROOM_BYTES,))
        with self._open() as db:
            db.execute("DELETE FROM room")

    def forget(self, held: Iterable[Digest]) -> None:
        """Remove rows of releases without a folder, but for the newest `HISTORY` of them."""
        gone = [row.digest for row in self.all() if row.digest not in set(held)]
        with self._open() as db:
            rows = [(digest,) for digest in gone[HISTORY:]]
            db.executemany("DELETE FROM releases WHERE digest = ?", rows)

    def all(self) -> list[Release]:
        """Every recorded release, latest change first."""
        with self._open() as db:
            query = f"SELECT {_COLUMNS} FROM releases ORDER BY since DESC, digest"  # noqa: S608  own names
            rows = db.execute(query).fetchall()
        return [Release(Digest.parse(row[0]), *row[1:]) for row in rows]

    def get(self, digest: Digest) -> Release | None:
        """One release, or None if it is not recorded."""
        return next((r for r in self.all() if r.digest == digest), None)

    def stage(self, digest: Digest, name: str, version: str) -> None:
        """Record a staged release; a good release stays good, and a trial goes on."""
        known = self.get(digest)
        state = after(_state(known), ReleaseEvent.STAGE)
        if known and known.state in (state, ReleaseState.TRIAL):
            return
        with self._open() as db:
            db.execute(_STAGE, (digest, name, version, state, time.time()))

    def move(self, digest: Digest, event: ReleaseEvent, reason: str = "") -> ReleaseState:
        """Move a release along the transition table.

        Raises:
            EdgekitError: the table has no such move.
        """
        known = self.get(digest)
        state = after(_state(known), event)
        with self._open() as db:
            db.execute(
                "UPDATE releases SET state = ?, since = ?, tries = 0, reason = ? WHERE digest = ?",
                (state, time.time(), reason[:MAX_REASON], digest),
            )
        return state

    def count_try(self, digest: Digest) -> int:
        """Record that a supervisor starts a release on trial; return the number of starts."""
        with self._open() as db:
            db.execute("UPDATE releases SET tries = tries + 1 WHERE digest = ?", (digest,))
            row = db.execute("SELECT tries FROM releases WHERE digest = ?", (digest,)).fetchone()
        return int(row[0])


def _state(release: Release | None) -> ReleaseState | None:
    """The state of a release for the transition table."""
    return None if release is None else release.known_state or ReleaseState.STAGED
