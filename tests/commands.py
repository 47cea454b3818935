"""The command line of `edgekit`, for tests of what a command does.

While pytest runs, its interpreter is warm (`tests/warm.py`). A test of how a command starts, of
signals, or of a terminal starts `python -m edgekit` itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock


class Interpreter:
    """What runs the commands: Python, or what stands for it, begun when the first one asks."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._begin: Callable[[], Path] | None = None
        self._path = Path(sys.executable)

    @contextmanager
    def warmed(self, begin: Callable[[ExitStack], Path]) -> Iterator[None]:
        """For this block, what `begin` makes; it ends with the stack."""
        with ExitStack() as running:
            self._begin = lambda: begin(running)
            try:
                yield
            finally:
                self._begin, self._path = None, Path(sys.executable)

    @property
    def path(self) -> str:
        """The program."""
        with self._lock:
            if self._begin is not None:
                self._path, self._begin = self._begin(), None
        return str(self._path)


INTERPRETER = Interpreter()


def edgekit(*arguments: str | Path) -> list[str]:
    """The words that run `edgekit`. Who waits for it must not send it signals but SIGKILL."""
    return [INTERPRETER.path, "-m", "edgekit", *map(str, arguments)]
