"""Keys as they are pressed, and changes of the window's size, without an Enter."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_KEY = re.compile("\x1b(?:\\[[0-9;]*[~A-Za-z]|O[A-Za-z])|.", re.DOTALL)

Wait = Callable[[float], list[str]]
"""Waits so many seconds, or until something happens; gives the keys that were pressed."""


@contextmanager
def keyboard() -> Iterator[Wait]:
    """The keys of the terminal on standard input; without one nobody presses any.

    A window that changes its size ends a wait, too. The terminal is as before after the block.
    """
    terminal = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    before = termios.tcgetattr(terminal) if terminal is not None else None
    size = signal.signal(signal.SIGWINCH, lambda *_: None)  # so that it is heard at all
    waker = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def wait(seconds: float) -> list[str]:
        watched = [woken] if terminal is None else [woken, terminal]
        ready, _, _ = select.select(watched, [], [], seconds)
        if woken in ready:
            os.read(woken, 4096)
        if terminal is None or terminal not in ready:
            return []
        read = os.read(terminal, 1024)
        return _KEY.findall(read.decode("utf-8", "replace")) if read else ["q"]  # it is gone

    try:
        if terminal is not None:
            tty.setcbreak(terminal)
        yield wait
    finally:
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGWINCH, size)
        if terminal is not None and before is not None:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(woken)
        os.close(wake)
