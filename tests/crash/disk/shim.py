"""Stands between the device's code and the disk: counts the calls, and lets one of them fail.

`Shim` replaces functions of `os` and `io` and `sqlite3.connect` in this process, for paths below
one folder. Each call has a site, the function of edgekit that made it, and a number. At one of them
the shim raises an error as the kernel would, or ends the process: `KilledError` goes past every
handler of errors, and what `finally` blocks do after it does not reach the disk. An fsync is only
noted: `durable.Ledger` knows what it means.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from unittest import mock

from tests.crash.disk.calls import (
    EIO,
    ENOSPC,
    FULL,
    KILL,
    READ_ONLY,
    READS,
    TORN,
    Call,
    KilledError,
    site,
)
from tests.crash.disk.durable import Ledger
from tests.crash.disk.lasting import FullDisk, read_only
from tests.crash.disk.openfiles import FLAGS, CountedFile, connect

_PLAIN = (
    *("stat", "lstat", "readlink", "listdir", "scandir", "access", "statvfs"),
    *("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "symlink", "link", "chmod"),
    *("utime", "truncate"),
)
_WRITES_FILE = {"chmod", "truncate", "utime"}
_REAL_OPEN = io.open


@dataclass
class Shim:
    """Counts the calls below `root`.

    Args:
        root: the folder.
        fail_at: the number of the call that fails; -1: none.
        fault: how it fails.
        ledger: follows the folder; None: nobody asks what a power cut would keep.
        each: called after each call that changes the folder, with its number.
        before: called before it.
    """

    root: str
    fail_at: int = -1
    fault: str = ""
    ledger: Ledger | None = None
    each: Callable[[int], None] = lambda _: None
    before: Callable[[int], None] = lambda _: None
    calls: list[Call] = field(default_factory=list)
    dead: bool = False
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    paths: dict[int, str] = field(default_factory=dict)  # of open descriptors
    _real: dict[str, Any] = field(default_factory=dict)
    _count: int = 0
    _inside: bool = False  # the shim's own calls
    elsewhere: bool = False  # another process makes the calls
    lasting: FullDisk | Literal["read-only"] | None = None  # since the call that failed

    # --- calls ------------------------------------------------------------------------------
    def ours(self, path: object) -> bool:
        """Whether a path, or a descriptor, is below the folder."""
        if self._inside:
            return False
        if isinstance(path, int):
            return path in self.paths
        try:
            text = os.fspath(path)  # type: ignore[call-overload]  # whatever open takes
        except TypeError:
            return False
        return isinstance(text, str) and (text + "/").startswith(f"{self.root}/")

    def call(
        self,
        kind: str,
        act: Callable[[], Any],
        *,
        written: str = "",
        torn: Callable[[], Any] | None = None,
    ) -> Any:
        """Make one call, unless it is the one that fails.

        Args:
            kind: what is called.
            act: does it.
            written: the file whose bytes it changes.
            torn: does a part of it; a write can end in its middle.
        """
        if self.dead:
            raise KilledError
        if self.lasting is not None or self.elsewhere:
            return self._lasting(kind, act, written)
        number, self._count = self._count, self._count + 1
        self._inside = True
        try:
            if self.ledger is not None:
                place = site()
                self._seen[place, kind] += 1
                self.calls.append(Call(place, kind, self._seen[place, kind]))
            if kind not in READS:
                self.before(number)
            if number == self.fail_at and self.fault in (FULL, READ_ONLY):
                self.lasting = FullDisk() if self.fault == FULL else "read-only"
                return self._lasting(kind, act, written)
            if number == self.fail_at:
                self._fail(kind, torn)
            result = act()
            if kind not in READS:
                if self.ledger is not None and kind not in {"fsync", "sync", "commit"}:
                    self.ledger.changed(written)
                self.each(number)
            return result
        finally:
            self._inside = False

    def _lasting(self, kind: str, act: Callable[[], Any], path: str) -> Any:
        """Make a call on a disk that is full or read-only, maybe."""
        before, self._inside = self._inside, True
        try:
            if self.lasting is None or kind in READS | {"fsync", "sync", "rmdir"}:
                return act()
            if isinstance(self.lasting, FullDisk):
                return self.lasting.make(kind, path, act)
            return read_only(kind)
        finally:
            self._inside = before

    def _fail(self, kind: str, torn: Callable[[], Any] | None) -> None:
        if self.fault in (KILL, TORN):
            if self.fault == TORN and torn is not None:
                torn()
            self.dead = True
            raise KilledError
        if self.fault == ENOSPC and torn is not None:
            torn()
        number = {ENOSPC: errno.ENOSPC, EIO: errno.EIO}[self.fault]
        if kind == "commit":
            text = "database or disk is full" if self.fault == ENOSPC else "disk I/O error"
            raise sqlite3.OperationalError(text)
        raise OSError(number, os.strerror(number))

    # --- the functions that are replaced ----------------------------------------------------
    @contextmanager
    def at_work(self) -> Iterator[Shim]:
        """Replace the functions; a `KilledError` ends the block."""
        names: tuple[str, ...] = (
            *_PLAIN,
            "open",
            "close",
            "fsync",
            "sync",
            "write",
            "pwrite",
            "sendfile",
        )
        names += ("copy_file_range", "ftruncate", "posix_fallocate", "fchmod")
        self._real = {name: getattr(os, name) for name in names}
        patches = [mock.patch.object(os, name, self._plain(name)) for name in _PLAIN]
        patches += [
            mock.patch.object(os, name, getattr(self, f"_{name}", None) or getattr(self, name))
            for name in names
            if name not in _PLAIN
        ]
        patches += [
            mock.patch.object(io, "open", self._io_open),
            mock.patch.object(builtins, "open", self._io_open),
            mock.patch.object(sqlite3, "connect", self._connect),
        ]
        for patch in patches:
            patch.start()
        try:
            yield self
        except KilledError:
            pass
        finally:
            for patch in reversed(patches):
                patch.stop()
            for descriptor in self.paths:
                os.close(descriptor)
            self.paths.clear()

    def _plain(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def replaced(path: Any, *others: Any, **more: Any) -> Any:
            folder = more.get("dir_fd")
            place = others[0] if name in ("symlink", "link", "replace", "rename") else path
            if not (self.ours(place) or (folder is not None and self.ours(folder))):
                return real(path, *others, **more)
            written = str(path) if name in _WRITES_FILE and not isinstance(path, int) else ""
            if self.lasting is not None:
                where = f"{self.paths[folder]}/" if folder is not None else ""
                where += self.paths[place] if isinstance(place, int) else os.fspath(place)
                written = where  # its blocks may be freed
            return self.call(name, lambda: real(path, *others, **more), written=written)

        return replaced

    def _open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        real = self._real["open"]
        folder = more.get("dir_fd")
        if not (self.ours(path) or (folder is not None and self.ours(folder))):
            return int(real(path, flags, mode, **more))
        place = str(path) if folder is None else f"{self.paths[folder]}/{path}"
        creates = flags & (os.O_CREAT | os.O_TRUNC)
        changes = self.lasting is not None and flags & (os.O_WRONLY | os.O_RDWR)
        kind = "create" if creates or changes else "open"
        opened = self.call(
            kind, lambda: real(path, flags, mode, **more), written=place if creates else ""
        )
        self.paths[opened] = place
        return int(opened)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        self.paths.pop(descriptor, None)
        self._real["close"](descriptor)

    def _fsync(self, descriptor: int) -> None:
        if not self.ours(descriptor):
            return  # the real disk is not what is tested
        path, ledger = self.paths[descriptor], self.ledger
        self.call("fsync", (lambda: None) if ledger is None else partial(ledger.synced, path))

    def _sync(self) -> None:
        if not self._inside:
            ledger = self.ledger
            self.call("sync", (lambda: None) if ledger is None else ledger.synced_all)

    def _write(self, descriptor: int, data: Any) -> int:
        return self.written("write", descriptor, data)

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        return self.written("pwrite", descriptor, data, offset)

    def written(self, name: str, descriptor: int, data: Any, *offset: int) -> int:
        real = self._real[name]
        if not self.ours(descriptor):
            return int(real(descriptor, data, *offset))
        half = bytes(data)[: len(data) // 2]
        return int(
            self.call(
                "write",
                lambda: real(descriptor, data, *offset),
                written=self.paths[descriptor],
                torn=lambda: real(descriptor, half, *offset),
            )
        )

    def _sendfile(self, out: int, *others: Any, **more: Any) -> int:
        if self.ours(out):
            raise OSError(errno.ENOTSOCK, "shutil falls back to reads and writes")
        return int(self._real["sendfile"](out, *others, **more))

    def _copy_file_range(self, source: int, target: int, *others: Any, **more: Any) -> int:
        if self.ours(target):
            raise OSError(errno.EXDEV, "the caller falls back to reads and writes")
        return int(self._real["copy_file_range"](source, target, *others, **more))

    def ftruncate(self, descriptor: int, length: int) -> None:
        """Cut an open file, or make it longer."""
        self._of_open_file("ftruncate", "truncate", descriptor, length)

    def _posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        self._of_open_file("posix_fallocate", "posix_fallocate", descriptor, offset, length)

    def _fchmod(self, descriptor: int, mode: int) -> None:
        self._of_open_file("fchmod", "chmod", descriptor, mode)

    def _of_open_file(self, name: str, kind: str, descriptor: int, *others: int) -> None:
        real = self._real[name]
        if not self.ours(descriptor):
            real(descriptor, *others)
            return
        self.call(kind, lambda: real(descriptor, *others), written=self.paths[descriptor])

    # --- files ------------------------------------------------------------------------------
    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *others: Any, **more: Any):  # type: ignore[no-untyped-def]  # what open returns
        if not self.ours(file):
            return _REAL_OPEN(file, mode, buffering, *others, **more)
        kind = mode.replace("b", "").replace("t", "")
        closes = more.pop("closefd", True)
        descriptor = file if isinstance(file, int) else self._open(str(file), FLAGS[kind], 0o666)
        raw = CountedFile(self, descriptor, kind, closes)
        if kind.startswith("a"):
            raw.seek(0, os.SEEK_END)
        if buffering == 0:
            return raw
        kinds: dict[str, Any] = {"r": io.BufferedReader}
        made = io.BufferedRandom if "+" in kind else kinds.get(kind, io.BufferedWriter)
        buffered = made(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *others, **more)

    # --- the database -----------------------------------------------------------------------
    def _connect(self, path: Any, *others: Any, **more: Any) -> sqlite3.Connection:
        ours = self.ours(path)
        if ours and self.dead:
            raise KilledError
        before, self._inside = self._inside, True
        try:
            made = connect(path, *others, **more)
        finally:
            self._inside = before
        if ours:
            made.shim = self
        return made
