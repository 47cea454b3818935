"""The file `state.db`: its tables, how it is opened, and what happens where it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edgekit.agent.release import recover
from edgekit.core import layout
from edgekit.errors import EdgekitError

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS releases (
    digest TEXT PRIMARY KEY,
    name   TEXT NOT NULL,
    version TEXT NOT NULL,
    state  TEXT NOT NULL,
    since  REAL NOT NULL,          -- Unix seconds
    tries  INTEGER NOT NULL DEFAULT 0, -- supervisors that started it during this trial
    reason TEXT NOT NULL DEFAULT ''
)
""",
    """
CREATE TABLE IF NOT EXISTS trials (
    digest TEXT PRIMARY KEY,
    began REAL NOT NULL,           -- Unix seconds
    connected INTEGER NOT NULL,    -- the release before was connected to the broker
    silent_seconds REAL,           -- from the end of the agent before to the next answer
    soaked REAL                    -- Unix seconds at which its soak ends
)
""",
    """
CREATE TABLE IF NOT EXISTS unproven (
    digest TEXT PRIMARY KEY,
    since REAL NOT NULL,           -- Unix seconds, of the latest unproven trial
    tries INTEGER NOT NULL,        -- trials that were unproven
    reason TEXT NOT NULL,
    waiting INTEGER NOT NULL       -- 0: another trial has begun since
)
""",
    """
CREATE TABLE IF NOT EXISTS refusals (
    at REAL NOT NULL,              -- Unix seconds
    digest TEXT NOT NULL,
    what TEXT NOT NULL,
    why TEXT NOT NULL
)
""",
    """
CREATE TABLE IF NOT EXISTS heads (
    at REAL NOT NULL,              -- Unix seconds
    digest TEXT NOT NULL,          -- the release that was offered
    project TEXT NOT NULL,
    operator TEXT NOT NULL,
    rollout TEXT NOT NULL,
    head TEXT NOT NULL             -- of the rollout's journal when the offer came
)
""",
    """
CREATE TABLE IF NOT EXISTS changes (
    digest TEXT PRIMARY KEY,
    number INTEGER NOT NULL        -- the latest change of a release has the highest
)
""",
    """
CREATE TABLE IF NOT EXISTS counters (
    digest  TEXT PRIMARY KEY,
    counter INTEGER NOT NULL,          -- as signed when the release was staged
    good    INTEGER NOT NULL DEFAULT 0 -- 1: the release was good here
)
""",
)
BUSY_SECONDS = 10.0


class StateFileError(EdgekitError):
    """`state.db` cannot be read or written: a full disk, a missing right, a damaged file."""


def unusable(path: Path, error: sqlite3.Error) -> StateFileError:
    """The error for a file that SQLite cannot use."""
    return StateFileError(
        f"{path} cannot be read or written",
        str(error),
        "check the free space and the health of the device's disk, then run it again",
    )


@contextmanager
def opened(root: Path) -> Iterator[sqlite3.Connection]:
    """Open `state.db` for one transaction, which survives a power cut once it has ended.

    `EXTRA` also syncs the folder after the rollback journal is gone. With `FULL` a power cut may
    bring the journal back, which undoes the last transaction: the try of a trial that takes the
    device down would never be on record (sqlite.org/pragma.html#pragma_synchronous). `PERSIST`
    keeps the journal's blocks: a full disk does not stop a change (`widen`).

    Raises:
        StateFileError: the disk is full or broken; nothing was recorded.
    """
    path = root / layout.RELEASES_DB
    try:
        with closing(_connected(root, path)) as db, db:
            yield db
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def _connected(root: Path, path: Path) -> sqlite3.Connection:
    """A connection to a file that is whole; a damaged one is put aside and recorded anew."""
    try:
        db = _prepared(path)
    except sqlite3.Error as error:
        if not recover.is_damaged(error):
            raise
        recover.put_aside(path)
        db = _prepared(path)
    try:
        if recover.is_blank(db, root):
            with db:
                recover.record_anew(db, root)
    except BaseException:
        db.close()
        raise
    return db


def _prepared(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        recover.check(db)
        db.execute("PRAGMA synchronous=EXTRA")
        db.execute("PRAGMA journal_mode=PERSIST")
        for table in _SCHEMA:
            db.execute(table)
    except BaseException:
        db.close()
        raise
    return db
