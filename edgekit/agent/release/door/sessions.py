"""Which sessions a device's door has, and which one must end so that there is room for a new one.

systemd takes 16 connections (`edgekit-updater.socket`). A thief with a key of `edgekit-push` could
hold all of them, and nobody would come in any more. So the door ends a session that brings nothing
for `IDLE_SECONDS`; and with `MOST` sessions, each new one ends the one that has been quiet for the
longest. What remains free is for those that come at the same moment.

Each session has a file in `ROOT/run/door`, locked while the session lives: its text is the Unix
time at which it began, its mtime is when it last did something. A session whose file is gone ends
within a second, at the latest after its verb.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edgekit.agent.release.root import Root
from edgekit.core import layout

MOST = 12  # of systemd's 16
IDLE_SECONDS = 900.0
STEP_BYTES = 1 << 20  # a transfer that brings less within `IDLE_SECONDS` is idle


class DoorSession(msgspec.Struct, frozen=True):
    """A session that another process serves.

    Attributes:
        path: its file.
        since: when it began, in Unix seconds.
        active: when it last did something, in Unix seconds.
    """

    path: Path
    since: float
    active: float


class OwnSession:
    """The session of this process; without room on the disk for its file it is not counted."""

    def __init__(self, root: Root) -> None:
        self._path = root.path / layout.DOOR_SESSIONS / str(os.getpid())
        self._file = -1
        self._bytes = 0
        self._active = time.monotonic()
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
            with _alone(self._path.parent):
                for quiet in sessions(root)[MOST - 1 :]:
                    quiet.path.unlink(missing_ok=True)
                _remove_ended(self._path.parent)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                os.write(self._file, f"{time.time():.3f}\n".encode())

    def acts(self, count: int = STEP_BYTES) -> None:
        """Record that a verb runs or was asked for, or that so many bytes came."""
        self._bytes += count
        if self._bytes < STEP_BYTES:
            return
        self._bytes, self._active = 0, time.monotonic()
        with suppress(OSError):
            if self._file >= 0:
                os.utime(self._file)

    def is_over(self) -> bool:
        """Whether another session needs the room, or this one brings nothing."""
        asked = self._file >= 0 and os.fstat(self._file).st_nlink == 0
        return asked or time.monotonic() - self._active > IDLE_SECONDS


def sessions(root: Root) -> list[DoorSession]:
    """The sessions that live, the one first that did something last."""
    return sorted(_living(root.path / layout.DOOR_SESSIONS), key=lambda each: -each.active)


def describe_door(root: Root) -> dict[str, object] | None:
    """For `agent state`: how many sessions there are; None on a device that never had one."""
    if not (root.path / layout.DOOR_SESSIONS).exists():
        return None
    found = sessions(root)
    since = min((each.since for each in found), default=None)
    return {"sessions": len(found), "most": MOST, "oldest_since": since}


def _living(folder: Path) -> Iterator[DoorSession]:
    for path in folder.glob("[0-9]*"):
        with suppress(OSError), path.open("rb") as file:
            if not _is_free(file.fileno()):
                active = os.fstat(file.fileno()).st_mtime
                yield DoorSession(path, _time(file.read(40), active), active)


def _remove_ended(folder: Path) -> None:
    for path in folder.glob("[0-9]*"):
        with suppress(OSError), path.open("rb") as file:
            if _is_free(file.fileno()):
                path.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one session begins at a time: a file that has no lock yet is no ended session's."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _time(text: bytes, other: float) -> float:
    try:
        return float(text)
    except ValueError:  # it has just been made
        return other
