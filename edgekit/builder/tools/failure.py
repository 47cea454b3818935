"""Turns the result of a failed program into an error for the user. Pure."""

from __future__ import annotations

import re
import signal

from edgekit.builder.tools.process import ProcessResult, event
from edgekit.errors import EdgekitError

# transformers' report is a table in the output, which the user does not see
_ABOVE = re.compile(r"above report")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MISMATCH = re.compile(
    r"^\s*(\S+)\s*\|\s*MISMATCH\s*\|\s*(?:Reinit due to size mismatch)?\s*(.*?)\s*$", re.M
)
_NAMED = 3
_DISK_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded")


def said(finished: ProcessResult) -> str:
    """The reason of a failure in one line: the reported error, else its output or exit code."""
    error = event(finished, "error")
    words = str(error["message"]) if error and error["message"] else finished.reason
    return _reported(finished.tail) if _ABOVE.search(words) else words


def _reported(output: str) -> str:
    """What transformers' loading report says, of which its exception names nothing."""
    rows = _MISMATCH.findall(_COLOUR.sub("", output))
    named = "; ".join(f"{name} ({shapes.strip(' -')})" for name, shapes in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return "the shapes of its weights are not those of config.json" + (
        f": {named}{more}" if named else ""
    )


def failure(finished: ProcessResult, what: str, next_step: str = "") -> EdgekitError:
    """The error for a program that failed.

    Args:
        what: the action that failed.
        next_step: advice for failures other than a full disk or exhausted memory.
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
