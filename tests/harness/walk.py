"""Follows a marker through the functions of edgekit: the files it enters, and its returns."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edgekit

PACKAGE = Path(edgekit.__file__).parent
LONGEST_CHARS = 20_000  # of an argument: longer ones are the model's bytes


class Walk:
    """The files that a marker entered.

    A step is a call of a function of edgekit with the marker in one of its arguments. A return is a
    step into a file that the marker, on this thread, had left before.

    Attributes:
        files: below edgekit/, in the order of the first step into each.
        returns: steps into a file that is in `files` already.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._last: dict[int, str] = {}  # by thread
        self.files: list[str] = []
        self.returns = 0

    def profile(self, frame: Any, event: str, _argument: object) -> None:
        """As `sys.setprofile` calls it."""
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(f"{PACKAGE}/"):
            return
        file, thread = path.removeprefix(f"{PACKAGE}/"), threading.get_ident()
        if self._last.get(thread) == file or not self._holds(frame.f_locals):
            return
        self._last[thread] = file
        if file in self.files:
            self.returns += 1
        else:
            self.files.append(file)

    def _holds(self, arguments: dict[str, Any]) -> bool:
        return any(self._marker in _text(value) for value in tuple(arguments.values()))


def _text(value: object) -> str:
    if isinstance(value, (bytes, str)) and len(value) > LONGEST_CHARS:
        return ""
    try:
        return repr(value)[:LONGEST_CHARS]
    except Exception:  # an object whose __init__ has only begun
        return ""


@contextmanager
def followed(marker: str) -> Iterator[Walk]:
    """Follow a marker on this thread and on those that are started meanwhile."""
    walk = Walk(marker)
    threading.setprofile(walk.profile)
    sys.setprofile(walk.profile)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
