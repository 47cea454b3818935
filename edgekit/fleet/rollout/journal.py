"""A rollout's journal: SQLite, one row for each event, chained by hashes.

Each row's hash covers the one before it, its time and its event; the first row is the plan, whose
hash covers the number of the rollout. So a row that was changed, left out or put in shows when the
journal is read, and so does the journal of another rollout. The last hash, the head, stands for the
whole history in reports and on devices.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.digest import decode_hook, encode_hook
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.rollout.events import AnyEvent, RolloutEvent
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.waves import RolloutPlan

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    number INTEGER PRIMARY KEY,   -- 0 is the plan
    at     TEXT NOT NULL,         -- Unix seconds, as they were hashed
    what   BLOB NOT NULL,         -- JSON
    hash   TEXT NOT NULL          -- sha256 over the hash before, at and what
)
"""
BUSY_SECONDS = 10.0
_KEEP = (
    "move the file to a safe place for whoever looks into it; `edgekit state DEVICE` says what "
    "runs on a device"
)
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class RolloutRow(msgspec.Struct, frozen=True):
    """One event with its time in Unix seconds, and the hash up to it."""

    at: float
    event: RolloutEvent
    hash: str


class RolloutJournal:
    """The journal of one rollout.

    Args:
        path: of its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, plan: RolloutPlan, now: float, number: int = 0) -> None:
        """Begin a journal with its plan; it is read as `number.db` alone, unless that is 0.

        Raises:
            EdgekitError: there is one already.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("SELECT 1 FROM rows").fetchone():
                raise EdgekitError(f"{self.path} holds a rollout already", "a plan never changes")
            _append(db, msgspec.json.encode(plan, enc_hook=encode_hook), now, _first(number))

    def append(self, event: RolloutEvent, now: float) -> str:
        """Write an event so that a power cut does not lose it; return the head."""
        with self._open() as db:
            db.execute("PRAGMA user_version = 0")
            db.execute("BEGIN IMMEDIATE")
            return _append(db, msgspec.json.encode(event, enc_hook=encode_hook), now)

    def read(self) -> tuple[RolloutPlan, list[RolloutRow], str]:
        """The plan, all events, and the head.

        Raises:
            EdgekitError: there is no rollout in it, or a later edgekit wrote it.
            VerificationError: a row is not as it was written.
        """
        if not self.path.exists():
            raise EdgekitError(f"there is no rollout at {self.path}")
        with self._open() as db:
            rows = db.execute(
                "SELECT number, at, CAST(what AS BLOB), hash FROM rows ORDER BY number"
            ).fetchall()
        if not rows:
            raise EdgekitError(f"{self.path} holds no rollout", "it was ended before its plan")
        stem = self.path.stem
        head = _first(int(stem) if stem.isascii() and stem.isdecimal() else 0)
        if rows[0][3] == _hash("", rows[0][1], rows[0][2] or b""):
            head = ""  # of before the number was hashed
        head = self._verified(head, 0, rows)
        plan = self._decoded(rows[0][2], RolloutPlan)
        return plan, [self._row(*row[1:]) for row in rows[1:]], head

    def _verified(self, head: str, first: int, rows: list[tuple[int, str, bytes, str]]) -> str:
        """The head after rows that follow on `head`, the first of that number."""
        for expected, (number, at, what, told) in enumerate(rows, first):
            head = _hash(head, at, what or b"")
            if number != expected or told != head:
                raise VerificationError(
                    f"row {expected} of {self.path} is not as it was written",
                    "its hash or its number is another one",
                    _KEEP,
                )
        return head

    def _row(self, at: str, what: bytes, told: str) -> RolloutRow:
        return RolloutRow(float(at), self._decoded(what, AnyEvent), told)

    def _decoded(self, what: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(what, type=kind, dec_hook=decode_hook)
        except msgspec.MsgspecError as error:
            raise EdgekitError(
                f"{self.path} cannot be read", str(error), "a later edgekit wrote it: use that one"
            ) from error

    @property
    def is_closed(self) -> bool:
        """Whether its rollout was over when it was closed, and nothing was written since."""
        with self._open() as db:
            return bool(db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Note that the rollout is over, for those who look for one that is not."""
        with self._open() as db:
            db.execute("PRAGMA user_version = 1")

    def head(self) -> str:
        """The hash over the whole history, as it was written; `read` checks it."""
        with self._open() as db:
            row = db.execute("SELECT hash FROM rows ORDER BY number DESC LIMIT 1").fetchone()
        return row[0] if row else ""

    def since(self, number: int) -> list[RolloutRow]:
        """The events after the first `number`, in their order; raises what `read` raises."""
        if not self.path.exists():
            raise EdgekitError(f"there is no rollout at {self.path}")
        with self._open() as db:
            rows = db.execute(
                "SELECT number, at, CAST(what AS BLOB), hash FROM rows WHERE number >= ? "
                "ORDER BY number",
                (number,),
            ).fetchall()
        if not rows:
            raise VerificationError(
                f"row {number} of {self.path} is not there any more",
                "rows were cut off at its end",
                _KEEP,
            )
        self._verified(rows[0][3], number + 1, rows[1:])
        return [self._row(*row[1:]) for row in rows[1:]]

    def heads(self) -> list[str]:
        """All hashes, as they were written; `read` checks them."""
        with self._open() as db:
            return [row[0] for row in db.execute("SELECT hash FROM rows ORDER BY number")]

    def replay(self) -> Rollout:
        """The rollout as its journal leaves it; raises what `read` raises."""
        plan, rows, _ = self.read()
        rollout = Rollout(plan)
        for row in rows:
            rollout.handle(row.event, row.at)
        return rollout

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as db, db:
                # a damaged text is a row whose hash does not hold, and no error of decoding
                db.text_factory = lambda data: data.decode("utf-8", "replace")
                db.execute("PRAGMA synchronous=FULL")
                db.execute(_SCHEMA)
                yield db
        except sqlite3.DatabaseError as error:
            raise _refused(self.path, error) from error


def _refused(path: Path, error: sqlite3.DatabaseError) -> EdgekitError:
    """What SQLite's error means: the file is damaged, or the system did not let it be used."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in _DAMAGED:
        return VerificationError(
            f"{path} is damaged",
            str(error),
            _KEEP,
        )
    return EdgekitError(
        f"{path} cannot be used", str(error), "check the free space and the rights there"
    )


def _append(db: sqlite3.Connection, what: bytes, now: float, first: str = "") -> str:
    last = db.execute("SELECT number, hash FROM rows ORDER BY number DESC LIMIT 1").fetchone()
    number, before = (last[0] + 1, last[1]) if last else (0, first)
    head = _hash(before, repr(now), what)
    db.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (number, repr(now), what, head))
    return head


def _first(number: int) -> str:
    """What stands for the hash before the plan."""
    return f"rollout {number}" if number else ""


def _hash(before: str, at: str, what: bytes) -> str:
    return hashlib.sha256(f"{before} {at} ".encode() + what).hexdigest()
