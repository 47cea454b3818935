"""One terminal, two users of it: what draws there stops while a question waits for its answer.

A spinner draws its line anew ten times a second, over a question that stands in it; a person would
be asked for a password and see none of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class TerminalDrawing(NamedTuple):
    """What draws on the terminal all the time."""

    start: Callable[[], object]
    """Draws, below what was written meanwhile."""
    stop: Callable[[], object]
    """Leaves the terminal as it was; harmless where nothing draws."""


_drawings: list[TerminalDrawing] = []
_asking = threading.Event()
_changes = threading.Lock()  # of these two
_questions = threading.Lock()  # one at a time: threads that connect to devices ask, too


@contextmanager
def drawing(it: TerminalDrawing) -> Iterator[None]:
    """Draw within the block, but for the time of a question."""
    with _changes:
        _drawings.append(it)
        if not _asking.is_set():
            it.start()
    try:
        yield
    finally:
        with _changes:
            _drawings.remove(it)
            it.stop()


@contextmanager
def question() -> Iterator[None]:
    """The terminal belongs to a question and its answer within the block; to one at a time."""
    with _questions:
        try:
            with _changes:
                _asking.set()
                for it in _drawings:
                    it.stop()
            yield
        finally:
            with _changes:
                _asking.clear()
                for it in _drawings:
                    it.start()
