"""The reserve: bytes of the disk that are set aside for the way back of a trial.

A disk can fill up between staging and activation, and during a trial. `hold` runs before the old
release stops, and refuses where there is no room. `give` runs at the start of a way back: the old
agent then has room for its pid file, its ready file and its journal. The way back itself writes
into blocks that exist: `Releases.widen`, and renames.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from edgekit.agent.release.root import Root
from edgekit.agent.release.state import Releases
from edgekit.agent.release.statefile import StateFileError
from edgekit.core.room import BACK_BYTES
from edgekit.errors import EdgekitError
from edgekit.store import fsync_folder


def hold(root: Root) -> None:
    """Set `BACK_BYTES` aside, once; a reserve that exists stays as it is.

    Raises:
        EdgekitError: the disk is too full; nothing was changed.
    """
    held = _is_whole(root)
    try:
        if not held:
            _allocate(root)
        Releases(root.path).widen()
    except (OSError, StateFileError) as error:
        if not held:
            give(root)
        free = os.statvfs(root.path)
        why = error.why if isinstance(error, StateFileError) else error.strerror
        raise EdgekitError(
            "the disk of the device is full",
            f"{BACK_BYTES:,} bytes have to be set aside at {root.path}, so that the device can go "
            f"back to what runs now; {free.f_bavail * free.f_frsize:,} are free ({why})",
            "free some space there and push again; what runs was not touched",
        ) from error


def spend(root: Root, act: Callable[[], None]) -> None:
    """Act; if the disk is full, give the reserve and act again. `act` must bear to be repeated."""
    try:
        act()
    except (OSError, StateFileError):
        give(root)
        act()


def give(root: Root) -> None:
    """Free the reserve's bytes; this needs no room."""
    root.reserve_file.unlink(missing_ok=True)


def _is_whole(root: Root) -> bool:
    try:
        found = root.reserve_file.stat()
    except FileNotFoundError:
        return False
    return found.st_size == BACK_BYTES and found.st_blocks * 512 >= BACK_BYTES


def _allocate(root: Root) -> None:
    descriptor = os.open(root.reserve_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, BACK_BYTES)
        os.ftruncate(descriptor, BACK_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fsync_folder(root.path)
