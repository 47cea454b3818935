"""The command line of `edgekit`, for tests of what a command does.

While pytest runs, its interpreter is warm (`tests/warm.py`). A test of how a command starts, of
signals, or of a terminal starts `python -m edgekit` itself.
"""

from __future__ import annotations

import sys
from pathlib import Path


class Interpreter:
    """What runs the commands: Python, or what stands for it while pytest runs."""

    path = sys.executable


INTERPRETER = Interpreter()


def edgekit(*arguments: str | Path) -> list[str]:
    """The words that run `edgekit`. Who waits for it must not send it signals but SIGKILL."""
    return [INTERPRETER.path, "-m", "edgekit", *map(str, arguments)]
