"""The release counters of a device: a table of `state.db`. A device goes back to none by itself.

A release of before signed metadata has no row: it stays usable as `current` and `previous`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edgekit.agent.release.state import BUSY_SECONDS, unusable
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS counters (
    digest  TEXT PRIMARY KEY,
    counter INTEGER NOT NULL,          -- as signed when the release was staged
    good    INTEGER NOT NULL DEFAULT 0 -- 1: the release was good here
)
"""
_STAGE = """
INSERT INTO counters (digest, counter) VALUES (?, ?)
ON CONFLICT (digest) DO UPDATE SET counter = max(counter, excluded.counter)
"""
# The second half is for a kill between the verdict and `record_good`.
_HIGHEST = """
SELECT max(counter) FROM counters WHERE good = 1
    OR digest IN (SELECT digest FROM releases WHERE state = ?)
"""


class Counters:
    """The counters of one device."""

    def __init__(self, root: Path) -> None:
        self._path = root / layout.RELEASES_DB

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """As `Releases._open`, whose file it is."""
        try:
            with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as db, db:
                db.execute("PRAGMA synchronous=EXTRA")
                db.execute("PRAGMA journal_mode=PERSIST")
                db.execute(_SCHEMA)
                yield db
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error

    def stage(self, digest: Digest, counter: int) -> None:
        """Record the signed counter of a release that is staged."""
        with self._open() as db:
            db.execute(_STAGE, (digest, counter))

    def good(self, digest: Digest) -> None:
        """Record that a release is good; one without a row stays without."""
        with self._open() as db:
            db.execute("UPDATE counters SET good = 1 WHERE digest = ?", (digest,))

    def highest(self) -> int:
        """The highest counter of a release that was good here; 0 without any. Writes nothing."""
        if not self._path.exists():
            return 0
        table = "SELECT 1 FROM sqlite_master WHERE name = 'counters'"
        try:
            with closing(sqlite3.connect(self._path, timeout=BUSY_SECONDS)) as db:
                if not db.execute(table).fetchone():
                    return 0
                row = db.execute(_HIGHEST, (ReleaseState.GOOD,)).fetchone()
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error
        return int(row[0] or 0)
