"""Files and databases below the folder of a shim: what they do are calls of the shim."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.crash.calls import KilledError

if TYPE_CHECKING:
    from tests.crash.shim import Shim

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


def connect(*arguments: Any, **more: Any) -> Any:
    """A database; what it calls random is always the same, for equal acts to leave equal disks."""
    made = _CONNECT(*arguments, **more)
    made.create_function("randomblob", 1, lambda size: b"r" * size)
    return made


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
    """A database below the folder: a commit that changes it is one call."""

    shim: Shim
    path: str
    _made = False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if kind is None:
            self._commit(super().commit)
            return False
        super().rollback()
        return False

    def commit(self) -> None:
        self._commit(super().commit)

    def execute(self, sql: str, *others: Any) -> sqlite3.Cursor:
        """A schema that is written outside of a transaction is a commit of its own."""
        if self.shim.dead:
            raise KilledError
        if not sql.lstrip().upper().startswith("CREATE") or self._has(sql):
            return super().execute(sql, *others)
        made: sqlite3.Cursor = self._commit(
            lambda: super(CountedDatabase, self).execute(sql, *others)
        )
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
        if self.shim.dead:
            raise KilledError
        if not self.in_transaction and act.__name__ == "commit":
            return act()
        final = self._is_final()

        def committed() -> Any:
            result = act()
            if self.shim.ledger is not None:
                self.shim.ledger.committed(self.path, final)
            return result

        try:
            return self.shim.call("commit", committed)
        except OSError as error:
            super().rollback()
            raise sqlite3.OperationalError("database or disk is full") from error
        except BaseException:
            super().rollback()
            raise
