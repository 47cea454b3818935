"""File operations of the builder: hash, flush to the disk, publish by rename, lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.core.buildinfo import FileRecord
from edgekit.data import cache_root

_SCRATCH = ".making-"
YOUNG_SECONDS = 60


def hash_file(path: Path) -> str:
    """Sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> list[str]:
    """Relative paths (with `/`) of all files below a folder, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Sha256 and size of the named files of a folder."""
    return {
        name: FileRecord(hash_file(folder / name), (folder / name).stat().st_size) for name in names
    }


def matches(folder: Path, files: dict[str, FileRecord]) -> bool:
    """Whether every named file of the folder has the size and the sha256 on record."""
    for name, record in files.items():
        path = folder / name
        # the sizes first: they are free, and a cut file fails on them
        if not path.is_file() or path.stat().st_size != record.size:
            return False
    return all(hash_file(folder / name) == record.sha256 for name, record in files.items())


def sync_tree(folder: Path) -> None:
    """Flush a folder, its files and its subfolders to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_cached(temporary: Path, final: Path) -> None:
    """Rename a finished cache folder to its final name, which its content decides.

    If another process has published that name already, this copy is dropped: both are equal.
    """
    sync_tree(temporary)
    try:
        temporary.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(temporary)
    sync(final.parent)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """An empty folder below `parent`, removed when the block ends.

    Folders that killed processes left there are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{_SCRATCH}*"):
        # another process may have made a young one and not claimed it yet
        if time.time() - left.stat().st_mtime > YOUNG_SECONDS:
            remove_unclaimed(left)
    with tempfile.TemporaryDirectory(
        prefix=_SCRATCH, dir=parent, ignore_cleanup_errors=True
    ) as made:
        claim = Claim(Path(made))
        try:
            claim.take()
            yield Path(made)
        finally:
            claim.release()


def remove_unclaimed(folder: Path) -> bool:
    """Remove a leftover folder; False when a running process has claimed it."""
    claim = Claim(folder)
    try:
        if not claim.take():
            return False
        shutil.rmtree(folder)
    finally:
        claim.release()
    return True


class Claim:
    """An advisory lock (flock) on a file or folder, held by this process until `release`.

    The kernel releases the lock when the process ends, in any way. A folder without a lock is
    therefore a leftover.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def take(self) -> bool:
        """Take the lock; False when another process has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def keep_log(log: Path, name: str) -> Path:
    """Copy a failed program's log into the cache, because its own folder is about to be removed."""
    kept = cache_root() / "logs" / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, kept)
    return kept
