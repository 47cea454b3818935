"""Signals that end a command as Ctrl-C does: what it has begun is then cancelled or removed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_as_by_ctrl_c(*numbers: signal.Signals) -> Iterator[None]:
    """Make the first of these signals raise KeyboardInterrupt, and ignore later ones.

    A service manager sends SIGHUP right after SIGTERM, and a shell may send SIGHUP twice: the
    second one must not interrupt the cancelling. A signal that is ignored, as SIGHUP under nohup,
    stays ignored.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] is not signal.SIG_IGN]
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in () if interrupted else taken:  # else the command is about to end
            signal.signal(number, before[number])


@contextmanager
def told(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Call a function for each of these signals. One that is ignored stays ignored."""
    before = {number: signal.getsignal(number) for number in handlers}
    taken = [number for number in handlers if before[number] is not signal.SIG_IGN]

    def hear(number: int, frame: FrameType | None) -> None:
        handlers[signal.Signals(number)]()

    for number in taken:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
