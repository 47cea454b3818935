"""Bounds the time and the memory of a model's own code, the chat template.

Jinja's sandbox bounds neither. The first bound on time raises where Python runs; the last one ends
the process, for one native call that never returns.
"""

from __future__ import annotations

import faulthandler
import mmap
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 2.0  # a render takes milliseconds; `pack` refuses a template that comes near
LAST_SECONDS = 30.0  # below the 76 seconds after which the agent gives up a silent worker
MEMORY_BYTES = 256 << 20  # above what the process has when the template starts


@contextmanager
def bounded(seconds: float = SECONDS, memory: int = MEMORY_BYTES) -> Iterator[None]:
    """Run the body within so many seconds of wall time and so many bytes of new address space.

    Outside the main thread, where Python takes no signals, only the last bound on time holds.

    Raises:
        TimeoutError: the time is over.
        MemoryError: the memory is used up.
    """
    faulthandler.dump_traceback_later(LAST_SECONDS, exit=True, file=sys.__stderr__ or 2)
    try:
        with _time_bound(seconds), _memory_bound(memory):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _time_bound(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(_number: int, _frame: object) -> None:
        raise TimeoutError(f"it did not end within {seconds:g} s")

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, over)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's timer goes on
            rest = max(left - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


@contextmanager
def _memory_bound(memory: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * mmap.PAGESIZE + memory
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
