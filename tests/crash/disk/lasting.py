"""Faults that last: a disk on which no block is free any more, one that takes no writes any more.

Both hold for every process of the device. On a full disk only the reserve frees blocks, and what
needs none goes on: a rename, an inode, bytes that are overwritten in place.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BLOCK = 4096
RESERVE_BLOCKS = 2  # what a smaller file frees, another process takes at once


def blocks(path: str) -> int:
    """Blocks of a file that go with this name; 0 if others keep them, or there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return -(-found.st_size // BLOCK) if found.st_nlink == 1 else 0


@dataclass
class FullDisk:
    """A disk without a free block; the calls are those of the shim."""

    free: int = 0

    def make(self, kind: str, path: str, act: Callable[[], Any]) -> Any:
        """Make a call, if there is room for it.

        Raises:
            OSError: there is none; nothing has changed.
        """
        if kind in ("mkdir", "symlink"):
            return self._needs(1, act)
        if kind == "commit":
            return self._commit(path, act)
        before = blocks(path)
        if kind in ("unlink", "remove", "replace", "rename"):
            result = act()
            self.free += before if before >= RESERVE_BLOCKS else 0
            return result
        size = os.stat(path).st_size if os.path.exists(path) else 0
        result = act()
        grown = blocks(path) - before
        if grown > self.free:
            os.truncate(path, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= grown
        return result

    def _needs(self, count: int, act: Callable[[], Any]) -> Any:
        if count > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        result = act()
        self.free -= count
        return result

    def _commit(self, database: str, act: Callable[[], Any]) -> Any:
        """SQLite writes its journal and then the database; without room both are as before."""
        files = (database, f"{database}-journal")
        before = {name: _bytes(name) for name in files}
        had = sum(blocks(name) for name in files)
        result = act()
        grown = sum(blocks(name) for name in files) - had
        if grown > self.free:
            for name, data in before.items():
                if data is not None:
                    with open(name, "r+b", buffering=0) as file:
                        file.write(data)
                        file.truncate(len(data))
            raise sqlite3.OperationalError("database or disk is full")
        self.free -= grown
        return result


def read_only(kind: str) -> Any:
    """A call on a disk that takes no writes."""
    if kind == "commit":
        raise sqlite3.OperationalError("attempt to write a readonly database")
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
