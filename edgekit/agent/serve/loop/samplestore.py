"""Keeps ended prompts as tokens in memory, for the next release; never on a disk.

The file lies on a tmpfs, which is verified where it is opened, and is for its owner alone. It is
gone after a reboot, after a stop of the agent, and once the next release was compared. A tmpfs may
be swapped out where the device has swap; docs/security.md says so.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from edgekit.core.quality import Sample
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError

MAX_BYTES = 1 << 20
MAX_SECONDS = 86_400.0
MEMORY_KINDS = ("tmpfs", "ramfs")
MOUNTS = Path("/proc/self/mountinfo")


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    at: float  # seconds since the device's boot, which a clock that is set does not change
    sample: Sample


class _File(msgspec.Struct, frozen=True):
    release: str
    kept: list[_Kept]


class NoMemoryStoreError(EdgekitError):
    """This device has no place in memory that files can lie in."""


def boot_seconds() -> float:
    """Seconds since the device's boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def places() -> tuple[Path, ...]:
    """Folders that may lie in memory."""
    return Path("/dev/shm"), Path(f"/run/user/{os.geteuid()}")  # noqa: S108  verified when opened


class SampleStore:
    """Ended prompts of one release on this device.

    Args:
        root: the device's folder; it names the file.
        most: how many prompts are kept.
        folders: where the file may lie, the first that is in memory.
        clock: seconds since boot.

    Raises:
        NoMemoryStoreError: no folder lies in memory.
    """

    def __init__(
        self,
        root: Path,
        most: int,
        folders: tuple[Path, ...] | None = None,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._most, self.clock = most, clock
        given = places() if folders is None else folders
        found = next((path for path in given if in_memory(path)), None)
        if found is None:
            raise NoMemoryStoreError(
                "ended prompts are not kept for the canary",
                f"{' and '.join(map(str, given))} do not lie in memory",
                "mount a tmpfs at /dev/shm, or remove canary_samples from fleet.toml",
            )
        self.path = found / _name(root)

    def samples(self, release: str) -> list[Sample]:
        """What is kept of this release, at most a day old; a file of others is removed.

        Raises:
            OSError: the file cannot be read.
        """
        file = self._read()
        if file is not None and file.release != release:
            self.remove()
            return []
        return [] if file is None else [kept.sample for kept in self._fresh(file.kept)]

    def add(self, release: str, sample: Sample, at: float) -> None:
        """Keep one more; the oldest ones go beyond the number, 1 MiB or a day.

        Args:
            release: whose it is.
            sample: the prompt.
            at: when it ended, on `clock`.

        Raises:
            OSError: it cannot be written.
        """
        file = self._read()
        before = file.kept if file is not None and file.release == release else []
        self._write(release, [*before, _Kept(at, sample)])

    def tidy(self) -> None:
        """Remove what is older than a day, and what a write that failed has left.

        Raises:
            OSError: the file cannot be read or written.
        """
        _temporary(self.path).unlink(missing_ok=True)
        file = self._read()
        if file is None:
            return
        fresh = self._fresh(file.kept)
        if not fresh:
            self.remove()
        elif len(fresh) < len(file.kept):
            self._write(file.release, fresh)

    def remove(self) -> None:
        """Remove everything that is kept."""
        for path in (self.path, _temporary(self.path)):
            path.unlink(missing_ok=True)

    def _fresh(self, kept: list[_Kept]) -> list[_Kept]:
        now = self.clock()
        return [each for each in kept if 0 <= now - each.at < MAX_SECONDS]

    def _read(self) -> _File | None:
        """The file; None if there is none, or it is not as this account alone leaves it."""
        try:
            # Others can write to /dev/shm: a FIFO of this name would block the open for ever.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            own = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid()
            if not own or facts.st_mode & 0o077 or facts.st_nlink != 1:
                return None
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return None
        try:
            return msgspec.msgpack.decode(data, type=_File)
        except UNREADABLE:
            return None

    def _write(self, release: str, kept: list[_Kept]) -> None:
        kept = self._fresh(kept)[-self._most :]
        while len(data := msgspec.msgpack.encode(_File(release, kept))) > MAX_BYTES:
            kept = kept[1:]
        temporary = _temporary(self.path)
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            if not _memory_device(os.fstat(file.fileno()).st_dev):
                raise OSError(f"{temporary} does not lie in memory")
            file.write(data)
        temporary.replace(self.path)


def forget(root: Path) -> None:
    """Remove what is kept of a device, whose agent does not run; a file of others stays.

    Args:
        root: the device's folder.
    """
    for folder in places():
        for path in (folder / _name(root), _temporary(folder / _name(root))):
            with suppress(OSError):
                path.unlink()


def in_memory(folder: Path) -> bool:
    """Whether a folder is there, can be written, and lies in memory."""
    try:
        return _memory_device(folder.stat().st_dev) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _name(root: Path) -> str:
    return f"edgekit-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]}.samples"


def _temporary(path: Path) -> Path:
    return path.with_suffix(".new")


def _memory_device(device: int) -> bool:
    """Whether the kernel says that the file system of this device number lies in memory.

    proc(5): field 3 is major:minor, the type of the file system follows a lone dash.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text("utf-8", "replace").splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1] in MEMORY_KINDS
    return False
