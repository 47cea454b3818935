"""`state.db`: the releases of a device and their states, recorded before each action.

Later and earlier agents use the same file: a push brings a later agent, a rollback an earlier one.
The agent reads and writes only the columns below and leaves the columns of a later version alone.
A state that this version does not know counts as `staged`: the release's folder is whole, and only
a trial can tell whether the release answers. `agent state` shows such a state as it is recorded.

Five more tables: `trials` has one row, of the trial that began last; `unproven` has the release
that waits for another trial; `refusals` has the last `MOST_REFUSALS` bundles that were not taken;
`changes` numbers the changes of releases, because a device's clock may be set back between two;
`counters` is that of `staging/counters`. The file and its tables are in `statefile`.

On a full disk a verdict must still be recorded. `widen` gives the file free pages, and the rollback
journal its length; the journal is kept (`journal_mode=PERSIST`). A later change then takes no new
block of the disk, which was measured on ext4 and tmpfs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.agent.release import recover
from edgekit.agent.release.statefile import opened
from edgekit.core import layout
from edgekit.core.digest import Digest, decode_hook
from edgekit.core.lease import LeaseWish
from edgekit.core.release import ReleaseEvent, ReleaseState, after
from edgekit.errors import VerificationError

MAX_REASON = 4000  # characters; a log's last lines may be long
HISTORY = 20  # releases without a folder whose rows stay
ROOM_BYTES = 64 << 10  # of free pages, and of the journal: 8 changes with the longest reason
MOST_REFUSALS = 20
MOST_TEXT = 500  # characters of a refusal's words: they may come from what was refused


class Release(msgspec.Struct, frozen=True):
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
        return msgspec.structs.asdict(self)


class TrialRow(msgspec.Struct, frozen=True):
    """The trial that began last.

    Attributes:
        digest: of the release.
        began: Unix seconds.
        connected: the release before was connected to the broker when it began.
        silent_seconds: for how long no agent answered; None while none does.
        soaked: Unix seconds at which its soak ends; None before it has shown everything else.
    """

    digest: Digest
    began: float
    connected: bool
    silent_seconds: float | None
    soaked: float | None

    def soak_left(self, now: float) -> float:
        """How long it yet soaks, in seconds, by a clock that may have been set back meanwhile.

        Args:
            now: Unix seconds.
        """
        until = self.soaked or 0.0
        return round(min(max(until - now, 0.0), max(until - self.began, 0.0)), 1)


class UnprovenRow(msgspec.Struct, frozen=True):
    """A release whose trial could not reach the broker.

    Attributes:
        digest: of the release.
        since: Unix seconds of its latest trial's end.
        tries: how many of its trials were unproven.
        reason: what was missing.
        waiting: no other trial of it has begun since.
    """

    digest: Digest
    since: float
    tries: int
    reason: str
    waiting: bool


_COLUMNS = ", ".join(Release.__struct_fields__)
_ALL = f"""
SELECT {_COLUMNS} FROM releases LEFT JOIN changes USING (digest)
ORDER BY ifnull(changes.number, 0) DESC, since DESC, digest
"""  # noqa: S608  own names
_TRIAL = "SELECT digest, began, connected, silent_seconds, soaked FROM trials"
_UNPROVEN = "SELECT digest, since, tries, reason, waiting FROM unproven ORDER BY since DESC"
_STAGE = """
INSERT INTO releases (digest, name, version, state, since, tries, reason)
VALUES (?, ?, ?, ?, ?, 0, '')
ON CONFLICT (digest) DO UPDATE SET name = excluded.name, version = excluded.version,
    state = excluded.state, since = excluded.since, tries = 0, reason = ''
"""
_MOVE = "UPDATE releases SET state = ?, since = ?, tries = 0, reason = ? WHERE digest = ?"
_CHANGED = """
INSERT INTO changes VALUES (?, (SELECT ifnull(max(number), 0) + 1 FROM changes))
ON CONFLICT (digest) DO UPDATE SET number = excluded.number
"""
_OVER = ReleaseEvent.SUPERSEDED
_UNPROVE = """
INSERT INTO unproven (digest, since, tries, reason, waiting) VALUES (?, ?, 1, ?, 1)
ON CONFLICT (digest) DO UPDATE SET since = excluded.since, tries = tries + 1,
    reason = excluded.reason, waiting = 1
"""
_FEWER = """
DELETE FROM refusals WHERE rowid <= (SELECT max(rowid) FROM refusals) - ?
"""
_FEWER_HEADS = "DELETE FROM heads WHERE rowid <= (SELECT max(rowid) FROM heads) - ?"
MOST_HEADS = 100


_Row = TypeVar("_Row", Release, TrialRow, UnprovenRow)


class Releases:
    """The releases of one device; every method raises StateFileError if the file fails."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / layout.RELEASES_DB

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return opened(self._root)

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
            db.executemany("DELETE FROM changes WHERE digest = ?", rows)

    def all(self) -> list[Release]:
        """Every recorded release, latest change first; makes no file where there is none."""
        if not self._path.exists() and not recover.has_releases(self._root):
            return []
        with self._open() as db:
            rows = db.execute(_ALL).fetchall()
        return [found for row in rows if (found := _read(row, Release)) is not None]

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
            db.execute(_CHANGED, (digest,))

    def move(self, digest: Digest, event: ReleaseEvent, reason: str = "") -> ReleaseState:
        """Move a release along the transition table; a verdict ends its being unproven.

        Raises:
            EdgekitError: the table has no such move.
        """
        known = self.get(digest)
        state = after(_state(known), event)
        with self._open() as db:
            db.execute(_MOVE, (state, time.time(), reason[:MAX_REASON], digest))
            db.execute(_CHANGED, (digest,))
            if event != ReleaseEvent.ACTIVATE:
                db.execute("DELETE FROM unproven WHERE digest = ?", (digest,))
        return state

    def begin(self, digest: Digest, *, connected: bool, previous: Digest | None = None) -> None:
        """Record that the trial of a release begins: it is the only one.

        A rollback that was cut before the links moved leaves `previous` on trial: it is good again.

        Args:
            digest: the release.
            connected: whether the release before is connected to the broker.
            previous: the release that `previous` names, which was good.

        Raises:
            EdgekitError: it is not staged.
        """
        state = after(_state(self.get(digest)), ReleaseEvent.ACTIVATE)
        others = [r for r in self.all() if r.state == ReleaseState.TRIAL and r.digest != digest]
        now = time.time()
        with self._open() as db:
            for other in others:
                event = ReleaseEvent.RESTORED if other.digest == previous else _OVER
                db.execute(_MOVE, (after(ReleaseState.TRIAL, event), now, "", other.digest))
                db.execute(_CHANGED, (other.digest,))
            db.execute("DELETE FROM unproven WHERE digest != ?", (digest,))
            db.execute("UPDATE unproven SET waiting = 0")
            db.execute("DELETE FROM trials")
            db.execute("INSERT INTO trials VALUES (?, ?, ?, NULL, NULL)", (digest, now, connected))
            db.execute(_MOVE, (state, now, "", digest))
            db.execute(_CHANGED, (digest,))

    def trial(self) -> TrialRow | None:
        """The trial that began last, or None on a device that had none."""
        with self._open() as db:
            row = db.execute(_TRIAL).fetchone()
        return _read(row, TrialRow)

    def standing(
        self, digest: Digest
    ) -> tuple[Release | None, TrialRow | None, UnprovenRow | None]:
        """What `get`, `trial` and `unproven` say, at one moment."""
        with self._open() as db:
            db.execute("BEGIN")  # sqlite3 begins a transaction for changes alone
            rows = db.execute(_ALL).fetchall()
            trial = db.execute(_TRIAL).fetchone()
            unproven = db.execute(_UNPROVEN).fetchone()
        found = (_read(row, Release) for row in rows)
        release = next((each for each in found if each and each.digest == digest), None)
        return release, _read(trial, TrialRow), _read(unproven, UnprovenRow)

    def soaks(self, digest: Digest, seconds: float) -> None:
        """Record that a release on trial has shown everything, and for how long it must yet run."""
        with self._open() as db:
            until = time.time() + seconds
            db.execute("UPDATE trials SET soaked = ? WHERE digest = ?", (until, digest))

    def answers_after(self, seconds: float) -> None:
        """Record for how long no agent answered during the trial that began last."""
        with self._open() as db:
            query = "UPDATE trials SET silent_seconds = ifnull(silent_seconds, 0) + ?"
            db.execute(query, (seconds,))

    def unprove(self, digest: Digest, reason: str, *, only_config: bool) -> None:
        """Record that a trial ended unproven; it is no try any more.

        Args:
            digest: the release.
            reason: what was missing.
            only_config: the release is good, and only its new configuration waits.

        Raises:
            EdgekitError: the release is not on trial.
        """
        event = ReleaseEvent.RESTORED if only_config else ReleaseEvent.UNPROVEN
        state = after(_state(self.get(digest)), event)
        now = time.time()
        with self._open() as db:
            db.execute(_MOVE, (state, now, "", digest))
            db.execute(_CHANGED, (digest,))
            db.execute(_UNPROVE, (digest, now, reason[:MAX_REASON]))

    def end_waiting(self) -> None:
        """Try what is unproven no more: what runs was asked for since."""
        waits = self.unproven()
        if waits is None:
            return
        state = _state(self.get(waits.digest))
        with self._open() as db:
            if state == ReleaseState.TRIAL:  # else its configuration alone waits
                db.execute(_MOVE, (after(state, _OVER), time.time(), "", waits.digest))
                db.execute(_CHANGED, (waits.digest,))
            db.execute("DELETE FROM unproven WHERE digest = ?", (waits.digest,))

    def unproven(self) -> UnprovenRow | None:
        """The release that is unproven, or None."""
        with self._open() as db:
            row = db.execute(_UNPROVEN).fetchone()
        return _read(row, UnprovenRow)

    def refused(self, digest: Digest | str, what: str, why: str) -> None:
        """Record that a bundle was not taken; the oldest of more than `MOST_REFUSALS` goes."""
        said = (time.time(), str(digest), what[:MOST_TEXT], why[:MOST_TEXT])
        with self._open() as db:
            db.execute("INSERT INTO refusals VALUES (?, ?, ?, ?)", said)
            db.execute(_FEWER, (MOST_REFUSALS,))

    def refusals(self) -> list[dict[str, object]]:
        """What was refused and why, the latest first."""
        names = ("at", "digest", "what", "why")
        with self._open() as db:
            query = "SELECT at, digest, what, why FROM refusals ORDER BY rowid DESC"
            rows = db.execute(query).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def offered(self, digest: Digest, wish: LeaseWish) -> None:
        """Record which rollout offered a release, with the head of its journal."""
        said = (time.time(), digest, wish.id, wish.holder, wish.about, wish.head)
        with self._open() as db:
            db.execute("INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?)", said)
            db.execute(_FEWER_HEADS, (MOST_HEADS,))

    def heads(self) -> list[dict[str, object]]:
        """Which rollouts offered a release, the latest first."""
        names = ("at", "digest", "project", "operator", "rollout", "head")
        with self._open() as db:
            query = "SELECT at, digest, project, operator, rollout, head FROM heads"
            query += " ORDER BY rowid DESC"
            rows = db.execute(query).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def count_try(self, digest: Digest) -> int:
        """Record that a supervisor starts a release on trial; return the number of starts."""
        with self._open() as db:
            db.execute("UPDATE releases SET tries = tries + 1 WHERE digest = ?", (digest,))
            row = db.execute("SELECT tries FROM releases WHERE digest = ?", (digest,)).fetchone()
        return int(row[0])


def _read(row: tuple[Any, ...] | None, kind: type[_Row]) -> _Row | None:
    """A row as its kind; None without one, or for one that no edgekit has written."""
    if row is None:
        return None
    try:
        named = dict(zip(kind.__struct_fields__, row, strict=True))
        return msgspec.convert(named, kind, strict=False, dec_hook=decode_hook)
    except (msgspec.ValidationError, VerificationError):
        return None


def _state(release: Release | None) -> ReleaseState | None:
    """The state of a release for the transition table."""
    return None if release is None else release.known_state or ReleaseState.STAGED
