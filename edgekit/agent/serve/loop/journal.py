"""`journal.db`: the prompts of one device on its disk, where an accepted prompt survives a crash.

SQLite, WAL, synchronous=FULL: a commit that returned survives a power cut. `restored` computes the
times of a row after a restart, and is pure.

The file outlives every release, in both directions: after a push a later agent opens it, after a
rollback an earlier one. This version reads and writes only the columns below. It leaves columns of
a later version as they are, and a higher `user_version` where its own columns exist. A row that
this version cannot read stays in the file for the version that can. It is deleted when its own
times say that its outcome would be forgotten, or when its requester sends the prompt again under
the same key.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.agent.serve.session.prompt import UNSENT_KEEP_SECONDS, JournalRow
from edgekit.agent.serve.session.states import State
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError

log = logging.getLogger(__name__)

BUSY_SECONDS = 5.0  # a killed agent releases the file at once
WAL_BYTES = 1 << 20  # SQLite truncates the WAL to this after a checkpoint
BROKEN_KEEP_SECONDS = 86_400.0  # time to find the cause; no longer, as it holds prompts
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (
    key TEXT PRIMARY KEY, state TEXT NOT NULL,
    boot_id TEXT NOT NULL, boot_seconds REAL NOT NULL, unix_seconds REAL NOT NULL,
    row BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checks (id INTEGER PRIMARY KEY, filler BLOB NOT NULL);
"""
COLUMNS = ("key", "state", "boot_id", "boot_seconds", "unix_seconds", "row")
WRITE = """
INSERT INTO prompts (key, state, boot_id, boot_seconds, unix_seconds, row)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET state = excluded.state, boot_id = excluded.boot_id,
    boot_seconds = excluded.boot_seconds, unix_seconds = excluded.unix_seconds, row = excluded.row
"""
CHECK_BYTES = 256 * 1024  # room for the largest prompt without pictures


class StorageError(EdgekitError):
    """The journal cannot be read or written: a full disk, a broken one, no permission."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on every clock of the device, in seconds.

    `boot` is CLOCK_BOOTTIME: no program can set it, and it runs while the device sleeps. It has a
    meaning only with its `boot_id`. `unix` may jump.
    """

    monotonic: float
    boot: float
    unix: float
    boot_id: str

    @classmethod
    def now(cls) -> Moment:
        """Return this instant."""
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return cls(time.monotonic(), boot, time.time(), BOOT_ID.read_text().strip())

    def since(self, boot: float, unix: float, boot_id: str) -> float:
        """Return the seconds since another instant, never less than 0.

        After a reboot only the wall clock measures them; a clock that was set back gives 0.
        """
        passed = self.boot - boot if boot_id == self.boot_id else self.unix - unix
        return max(0.0, passed)


def stored(row: JournalRow, now: Moment) -> JournalRow:
    """Return the row with its times relative to now."""
    return _shifted(row, -now.monotonic)


def restored(row: JournalRow, passed_seconds: float, now: Moment) -> JournalRow:
    """Return the row with its times on this boot's monotonic clock."""
    return _shifted(row, now.monotonic - passed_seconds)


def read_row(blob: bytes) -> JournalRow:
    """Decode a stored row.

    Raises:
        UNREADABLE: the bytes are not a row, or one of a later version: an unknown state, a final
            state without an outcome, an outcome without a final state.
    """
    row = msgspec.msgpack.decode(blob, type=JournalRow)
    if (row.outcome is None) != (row.state in (State.ACCEPTED, State.RUNNING)):
        raise ValueError(f"it is {row.state}, {'with' if row.outcome else 'without'} an outcome")
    return row


class _Times(msgspec.Struct, frozen=True):
    """The fields that say, in a row of any version, when its outcome is forgotten."""

    keep_until: float
    sent: bool = False


def is_over(blob: bytes, passed_seconds: float) -> bool:
    """Whether an unreadable row is old enough to have its outcome forgotten.

    False where even its times cannot be read.
    """
    try:
        times = msgspec.msgpack.decode(blob, type=_Times)
    except UNREADABLE:
        return False
    keep_seconds = times.keep_until + (0.0 if times.sent else UNSENT_KEEP_SECONDS)
    return passed_seconds >= keep_seconds


def _shifted(row: JournalRow, seconds: float) -> JournalRow:
    return msgspec.structs.replace(
        row,
        queued_at=row.queued_at + seconds,
        deadline=row.deadline + seconds,
        keep_until=row.keep_until + seconds,
    )


class Journal:
    """The journal's file, opened on first use and again after an error.

    Args:
        path: of the database; created with mode 0600.
        clock: returns this instant.
        busy_seconds: how long to wait for another process that holds the file.
        check_bytes: room for the largest prompt, which a check must prove.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], Moment] = Moment.now,
        busy_seconds: float = BUSY_SECONDS,
        *,
        check_bytes: int = CHECK_BYTES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._busy_seconds = busy_seconds
        self._check_bytes = check_bytes
        self._database: sqlite3.Connection | None = None
        self._aside = path.with_name(path.name + ".broken")
        self._removed_words = True  # a killed agent may have left some in the WAL
        self._told: frozenset[str] = frozenset()  # keys of unreadable rows that were logged

    def load(self) -> tuple[JournalRow, ...]:
        """Read every readable row, the oldest prompt first. Other rows stay and are logged once.

        A file that is no database, or lacks our columns, is renamed to `journal.db.broken`, which
        replaces an earlier one and is kept for a day. The journal then starts empty.

        Raises:
            StorageError: the file cannot be opened, read or renamed.
        """
        try:
            return self._load()
        except (sqlite3.Error, OSError) as error:
            self.close()
            broken = isinstance(error, sqlite3.DatabaseError)
            if not broken or isinstance(error, sqlite3.OperationalError):
                raise StorageError("the journal cannot be read", str(error)) from error
            log.exception("%s is broken; it is kept as %s", self._path, self._aside.name)
            with self._failing("put aside"):
                self._path.chmod(0o600)
                os.utime(self._path, (self._clock().unix,) * 2)
                self._path.replace(self._aside)
                for end in ("-wal", "-shm"):
                    self._path.with_name(self._path.name + end).unlink(missing_ok=True)
                return self._load()

    def commit(self, records: Sequence[JournalRow], forgotten: Sequence[str]) -> None:
        """Write and remove rows, all or nothing. They are on the disk when this returns.

        Raises:
            StorageError: the commit failed. It may have reached the disk all the same.
        """
        now = self._clock()
        times = (now.boot_id, now.boot, now.unix)
        rows = [
            (row.key, row.state, *times, msgspec.msgpack.encode(stored(row, now)))
            for row in records
        ]
        with self._failing("written"), self._open() as database:
            database.executemany("DELETE FROM prompts WHERE key = ?", [(k,) for k in forgotten])
            database.executemany(WRITE, rows)
        ended = any(row.outcome is not None for row in records)  # an earlier row had the body
        self._removed_words = self._removed_words or ended or bool(forgotten)

    def tidy(self) -> None:
        """Erase removed prompts from the WAL, and delete an old broken file.

        The service calls this once in every tick and not in a commit, which would take longer. The
        next tick repeats a part that fails.
        """
        self._empty_wal()
        with suppress(OSError):  # no broken file exists
            put_aside = self._aside.stat().st_mtime
            # abs: the clock may have been set back
            if abs(self._clock().unix - put_aside) >= BROKEN_KEEP_SECONDS:
                self._aside.unlink()

    def check(self) -> None:
        """Write and remove as many bytes as a prompt may need.

        Raises:
            StorageError: the journal still cannot be written.
        """
        with self._failing("written"):
            with self._open() as database:
                database.execute(
                    "REPLACE INTO checks (id, filler) VALUES (1, zeroblob(?))", (self._check_bytes,)
                )
            with self._open() as database:
                database.execute("DELETE FROM checks")

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _empty_wal(self) -> None:
        """Truncate the WAL, which else keeps removed prompts until it is overwritten."""
        database = self._database
        if database is None or not self._removed_words:
            return
        database.execute("PRAGMA busy_timeout = 0")  # a reader of the file must not delay a prompt
        with suppress(sqlite3.Error):  # every commit stays valid without it
            ((busy, _, _),) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._removed_words = bool(busy)
        database.execute(f"PRAGMA busy_timeout = {round(self._busy_seconds * 1000)}")

    def _load(self) -> tuple[JournalRow, ...]:
        now = self._clock()
        found, unreadable, over = [], [], []
        with self._open() as database:
            for key, boot_id, boot, unix, blob in database.execute(
                "SELECT key, boot_id, boot_seconds, unix_seconds, row FROM prompts"
            ):
                passed_seconds = now.since(boot, unix, boot_id)
                try:
                    found.append(restored(read_row(blob), passed_seconds, now))
                except UNREADABLE as error:
                    if is_over(blob, passed_seconds):
                        over.append((key,))
                    else:
                        unreadable.append((key, error))
            database.executemany("DELETE FROM prompts WHERE key = ?", over)
        self._tell(unreadable)
        return tuple(sorted(found, key=lambda row: row.queued_at))

    def _tell(self, unreadable: Sequence[tuple[str, Exception]]) -> None:
        for key, error in unreadable:
            if key not in self._told:
                text = "the journal's row of %s cannot be read by this version and is left: %s"
                log.warning(text, key, error)
        self._told = frozenset(key for key, _ in unreadable)

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            # We create the file: SQLite would leave it readable for an instant. SQLite gives -wal
            # and -shm the same mode.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            database = sqlite3.connect(self._path, timeout=self._busy_seconds)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                database.execute("PRAGMA secure_delete = ON")  # prompts are private
                database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
                database.executescript(SCHEMA)
                _check_columns(database)
                (version,) = database.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()  # after an I/O error only a new connection is certain to work
            raise StorageError(f"the journal cannot be {what}", str(error)) from error


def _check_columns(database: sqlite3.Connection) -> None:
    has = {name for (name,) in database.execute("SELECT name FROM pragma_table_info('prompts')")}
    lacking = [name for name in COLUMNS if name not in has]
    if lacking:
        raise sqlite3.DatabaseError(f"the table of prompts lacks {', '.join(lacking)}")
