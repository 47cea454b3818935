"""The device's log: its last lines, its rotation, and the supervisor's own lines in it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from edgekit.agent.release.root import Root

LOG_BYTES = 1 << 20
LOG_TAIL_LINES = 5


def log_tail(root: Root) -> str:
    """The last lines of the device's log, for the `why` of an error."""
    try:
        lines = root.log_file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " | ".join(lines[-LOG_TAIL_LINES:])


def log_end(root: Root) -> str:
    """The same, with words before it by which a support bundle knows what follows."""
    tail = log_tail(root)
    return f"its log ends with: {tail}" if tail else ""


def write_to_log(root: Root) -> None:
    """Send the output of this process, and of all that it starts, to the device's log."""
    descriptor = os.open(root.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.close(descriptor)


def rotate(log: Path) -> None:
    """Copy the log to `.1` and truncate it: running processes have the file open for appending.

    A full disk has no room for the copy: the log then starts anew without one, and nothing fails.
    """
    if not log.exists() or log.stat().st_size <= LOG_BYTES:
        return
    import shutil  # noqa: PLC0415  it brings archives, which take long to import

    older = log.with_name(f"{log.name}.1")
    try:
        shutil.copyfile(log, older)
    except OSError:
        with suppress(OSError):
            older.unlink(missing_ok=True)
    with suppress(OSError):
        os.truncate(log, 0)


def say(text: str) -> None:
    """Write a line of the supervisor to standard error, which is the device's log.

    A log that cannot be written, on a full disk, must not end the supervisor.
    """
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} supervisor: {text}\n")
