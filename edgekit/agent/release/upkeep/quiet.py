"""Work in idle time: the lowest priorities, a bounded rate, reads that leave the cache alone."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

CHUNK_BYTES = 1 << 20
BYTES_PER_SECOND = 16 << 20
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314, "riscv64": 30}  # syscall numbers
_IDLE_CLASS = 3 << 13  # ioprio_set(2): IOPRIO_CLASS_IDLE


def be_quiet() -> None:
    """Let every other process of the device come first, at the CPU and at the disk."""
    with suppress(OSError):
        os.nice(19)
    if (number := _IOPRIO_SET.get(platform.machine())) is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IDLE_CLASS)


class Throttle(msgspec.Struct):
    """Sleeps as long as it takes to stay below a rate.

    Attributes:
        rate: bytes per second; 0 has no limit.
        done: bytes in all.
    """

    rate: int = BYTES_PER_SECOND
    done: int = 0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _since: float | None = None

    def __call__(self, count: int) -> None:
        """Count bytes; sleep if they came too fast. Time that was lost is not made up for."""
        now = self.clock()
        self._since = now if self._since is None else self._since
        self.done += count
        if not self.rate:
            return
        self._since += count / self.rate
        if self._since > now:
            self.sleep(self._since - now)
        else:
            self._since = now


def read_past_cache(path: Path, pace: Callable[[int], None]) -> Iterator[bytes]:
    """Read a file from the disk itself where the file system can (O_DIRECT).

    What is cached may be right while the disk is not, and a scrub must not push a running model
    out of the cache.

    Raises:
        OSError: the disk cannot read it.
    """
    with mmap.mmap(-1, CHUNK_BYTES) as buffer:  # O_DIRECT wants memory at the start of a page
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError:
            descriptor = os.open(path, os.O_RDONLY)
        try:
            while True:
                count = os.readv(descriptor, [buffer])
                yield buffer[:count]
                pace(count)
                if count < CHUNK_BYTES:
                    return
        finally:
            os.close(descriptor)
