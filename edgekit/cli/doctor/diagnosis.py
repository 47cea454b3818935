"""What one check found. A value."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.errors import EdgekitError

Verdict = Literal["ok", "note", "warning", "wrong"]


class Diagnosis(msgspec.Struct, frozen=True):
    """One line of `edgekit doctor`.

    Attributes:
        check: the name of the check.
        verdict: `ok`; `note`, something optional is not there; `warning`, it works and will not for
            long or not for everything; `wrong`, commands fail.
        what: what was found, in one line.
        why: the cause, where it is known.
        next: what mends it.
    """

    check: str
    verdict: Verdict
    what: str
    why: str = ""
    next: str = ""


def of_error(check: str, error: EdgekitError, verdict: Verdict = "wrong") -> Diagnosis:
    """The diagnosis that an error of another part is."""
    return Diagnosis(check, verdict, error.what, error.why, error.next_step)
