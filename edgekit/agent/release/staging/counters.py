"""The release counters of a device: a table of `state.db`. A device goes back to none by itself.

A release of before signed metadata has no row: it stays usable as `current` and `previous`.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.agent.release import recover
from edgekit.agent.release.statefile import opened
from edgekit.core import layout
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState

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
        self._root = root

    def stage(self, digest: Digest, counter: int) -> None:
        """Record the signed counter of a release that is staged."""
        with opened(self._root) as db:
            db.execute(_STAGE, (digest, counter))

    def good(self, digest: Digest) -> None:
        """Record that a release is good; one without a row stays without."""
        with opened(self._root) as db:
            db.execute("UPDATE counters SET good = 1 WHERE digest = ?", (digest,))

    def highest(self) -> int:
        """The highest counter of a release that was good here; 0 without any.

        A device without the file has none, and gets none by being asked.
        """
        there = (self._root / layout.RELEASES_DB).exists()
        if not there and not recover.has_releases(self._root):
            return 0
        with opened(self._root) as db:
            row = db.execute(_HIGHEST, (ReleaseState.GOOD,)).fetchone()
        return int(row[0] or 0)
