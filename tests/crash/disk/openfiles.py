"""Files and databases below the folder of a shim: what they do are calls of the shim."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.crash.disk.calls import KilledError

if TYPE_CHECKING:
    from tests.crash.disk.shim import Shim

_CONNECT = sqlite3.connect
EXTRA = 3  # sqlite.org/pragma.html#pragma_synchronous
FLAGS = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
}


class _Kept:
    """The databases of the device at work: opened once, because most of their time is opening."""

    def __init__(self) -> None:
        self.by_path: dict[str, CountedDatabase] = {}


_KEPT = _Kept()


def connect(path: Any, *others: Any, **more: Any) -> CountedDatabase:
    """A database; what it calls random is always the same, for equal acts to leave equal disks."""
    name = str(path)
    made = _KEPT.by_path.get(name)
    if made is None:
        made = _CONNECT(path, *others, factory=CountedDatabase, **more)
        made.create_function("randomblob", 1, lambda size: b"r" * size)
        made.path, made.known = name, set()
        _KEPT.by_path[name] = made
    made.shim = None
    return made


def close_databases() -> None:
    """The device at work is over."""
    for made in _KEPT.by_path.values():
        made.end()
    _KEPT.by_path.clear()


class CountedFile(io.FileIO):
    """A file below the folder: each write is a call, and the first read of each opening."""

    def __init__(self, shim: Shim, descriptor: int, mode: str, closes: bool) -> None:
        super().__init__(descriptor, mode.replace("x", "w"), closefd=False)
        self._shim, self._descriptor, self._closes = shim, descriptor, closes
        self._was_read = False

    def write(self, data: Any) -> int:
        if self._shim.dead:
            return len(data)  # a buffer that is emptied after the end
        return self._shim.written("write", self._descriptor, bytes(data))

    def _read(self) -> None:
        if not self._was_read:
            self._was_read = True
            self._shim.call("read", lambda: None)

    def readinto(self, buffer: Any) -> Any:
        self._read()
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._read()
        return super().readall()

    def read(self, size: int | None = -1) -> Any:
        self._read()
        return super().read(-1 if size is None else size)

    def truncate(self, size: int | None = None) -> int:
        wanted = self.tell() if size is None else size
        self._shim.ftruncate(self._descriptor, wanted)
        return wanted

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._closes and self._descriptor in self._shim.paths:
                self._shim.close(self._descriptor)


class CountedDatabase(sqlite3.Connection):
    """A database below the folder: a commit that changes it is one call.

    It stays open when it is closed, and does what sets it up only once.

    Attributes:
        shim: counts its calls; None: nobody does.
        path: of its file.
        known: what sets it up and was done.
    """

    shim: Shim | None
    path: str
    known: set[str]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if kind is None:
            self.commit()
            return False
        super().rollback()
        return False

    def close(self) -> None:
        """It stays open; what is not committed is gone."""
        super().rollback()

    def end(self) -> None:
        """Close it."""
        super().close()

    def commit(self) -> None:
        """One call, if there is something to commit."""
        if self.shim is None:
            super().commit()
            return
        if self.shim.dead:
            raise KilledError
        if self.in_transaction:
            self._commit(super().commit)

    def execute(self, sql: str, *others: Any) -> sqlite3.Cursor:
        """A schema that is written outside of a transaction is a commit of its own."""
        if self.shim is not None and self.shim.dead:
            raise KilledError
        if sql.startswith("PRAGMA quick_check"):  # asked at each opening, and an answer is wanted
            return super().execute(sql, *others)
        creates = sql.lstrip().upper().startswith("CREATE")
        if not creates and not sql.startswith("PRAGMA"):
            return super().execute(sql, *others)
        if sql in self.known:
            return self.cursor()
        if self.shim is None or not creates or self._has(sql):
            made = super().execute(sql, *others)
        else:
            made = self._commit(lambda: super(CountedDatabase, self).execute(sql, *others))
        self.known.add(sql)
        return made

    def _has(self, sql: str) -> bool:
        words = sql.replace("(", " ").split()
        name = words[words.index("EXISTS") + 1] if "EXISTS" in words else ""
        query = "SELECT 1 FROM sqlite_master WHERE name = ?"
        return super().execute(query, (name,)).fetchone() is not None

    def _is_final(self) -> bool:
        """Whether a power cut right after a commit cannot undo it.

        A journal that is kept is overwritten with zeros and synced before the commit returns
        (`zeroJournalHdr` in SQLite's pager.c). One that is removed needs `EXTRA`, which syncs its
        folder after that: sqlite.org/pragma.html#pragma_synchronous.
        """
        mode = super().execute("PRAGMA journal_mode").fetchone()[0]
        kept = str(mode).lower() == "persist"
        return kept or super().execute("PRAGMA synchronous").fetchone()[0] == EXTRA

    def _commit(self, act: Callable[[], Any]) -> Any:
        shim = self.shim
        assert shim is not None, "someone counts"

        def committed() -> Any:
            if shim.ledger is None:
                return act()
            final = self._is_final()
            result = act()
            shim.ledger.committed(self.path, final)
            return result

        try:
            return shim.call("commit", committed, written=self.path)
        except OSError as error:
            super().rollback()
            raise sqlite3.OperationalError("database or disk is full") from error
        except BaseException:
            super().rollback()
            raise
