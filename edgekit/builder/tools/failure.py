"""What a program that failed means to its user. Pure: decided by how it ended and what it said."""

from __future__ import annotations

import re
import signal

from edgekit.builder.tools.process import ProcessResult, event
from edgekit.errors import EdgekitError

_DISK_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded")


def said(finished: ProcessResult) -> str:
    """Why it failed, in one line: what it reported, else what it printed or how it ended."""
    error = event(finished, "error")
    return str(error["message"]) if error and error["message"] else finished.reason


def failure(finished: ProcessResult, what: str, next_step: str = "") -> EdgekitError:
    """The error for a program that failed.

    Args:
        what: what could not be done.
        next_step: what helps where neither the disk nor the memory ran out.
    """
    why = said(finished)
    if finished.disk_full or _DISK_FULL.search(why):
        return EdgekitError(what, f"the disk is full ({why})", "free some space and run it again")
    if finished.code == -signal.SIGKILL:
        return EdgekitError(
            f"{what}: it was killed (signal 9)",
            why=finished.reason,
            next_step="close other programs, or build on a machine with more memory; "
            "`edgekit build --plan` says how much it takes",
        )
    return EdgekitError(what, why=why, next_step=next_step)
