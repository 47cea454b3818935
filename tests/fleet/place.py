"""The number of a fleet, from which all its names come; what a dead fleet left is taken down.

A fleet holds the lock of its number as long as its process lives, and writes into that file what it
starts. A number whose lock is free and whose file is not empty belongs to a fleet that was killed:
the next start, of any fleet, takes down what is named there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from tests import tools
from tests.harness.systemd_device import podman

LOCKS = Path("/run/edgekit-fleets")
NUMBERS = range(256)


class Started(msgspec.Struct):
    """What a fleet starts, named before it is started.

    Attributes:
        image: where podman keeps its devices.
        emulated: likewise, those that are emulated; empty: none.
        names: of its containers, which are those of their network namespaces and cables.
        folder: that goes with it; empty: none.
        processes: its own processes, each as (pid, a word of its command line).
    """

    image: str = ""
    emulated: str = ""
    names: list[str] = []
    folder: str = ""
    processes: list[tuple[int, str]] = []


class Place:
    """A number that is ours, and what was started under it."""

    def __init__(self, number: int, lock: int) -> None:
        self.number = number
        self.bridge = f"ekf{number}"
        self.started = Started()
        self._lock = lock

    def name(self, device: int) -> str:
        """Container, namespace and cable of a device; a cable's name has at most 15 letters."""
        return f"{self.bridge}-{device}"

    def address(self, end: int) -> str:
        """An address of the fleet's network; 1 is this host's end."""
        return f"10.232.{self.number}.{end}"

    def note(self) -> None:
        """Write down what is started, before it is."""
        _write(self._lock, msgspec.json.encode(self.started))


def _write(lock: int, data: bytes) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, data, 0)


@contextmanager
def place() -> Iterator[Place]:
    """A number for the length of a block; then everything that was noted under it is gone."""
    LOCKS.mkdir(mode=0o700, exist_ok=True)
    sweep()
    number, lock = _take()
    ours = Place(number, lock)
    try:
        yield ours
    finally:
        take_down(ours.bridge, ours.started)
        _write(lock, b"")
        os.close(lock)


def sweep() -> list[str]:
    """Take down what killed fleets left; the names of their bridges."""
    found = []
    for path in sorted(LOCKS.glob("*")):
        lock = _locked(path)
        if lock is None:
            continue  # that fleet lives
        if data := os.pread(lock, 1 << 20, 0):
            found.append(f"ekf{path.name}")
            take_down(found[-1], msgspec.json.decode(data, type=Started))
            _write(lock, b"")
        os.close(lock)
    return found


def take_down(bridge: str, started: Started) -> None:
    """End and remove what one fleet started, whatever of it is there."""
    for pid, word in started.processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            if word in Path(f"/proc/{pid}/cmdline").read_text("utf-8"):
                os.kill(pid, 9)
    for image in filter(None, (started.image, started.emulated)):
        podman(Path(image), "rm", "--force", "--ignore", "--time", "0", *started.names)
    ip = tools.find("ip")
    for name in started.names:
        subprocess.run([ip, "netns", "del", name], check=False, capture_output=True, timeout=30)
    subprocess.run([ip, "link", "del", bridge], check=False, capture_output=True, timeout=30)
    if started.folder:
        shutil.rmtree(started.folder, ignore_errors=True)


def _take() -> tuple[int, int]:
    for number in NUMBERS:
        lock = _locked(LOCKS / str(number))
        if lock is not None:
            return number, lock
    raise AssertionError(f"all {len(NUMBERS)} numbers of fleets are taken; see {LOCKS}")


def _locked(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
