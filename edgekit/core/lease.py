"""The lease of a device as both ends say it: who holds it, for what, and for how long. Pure.

A rollout holds a device between its stage and the end of its trial, across SSH sessions. The lease
has a name and an end, so that a second operator is told who it is, and a controller that died
blocks nobody for ever.
"""

from __future__ import annotations

import re

import msgspec

LEASE_SECONDS = 600.0  # a controller that is gone holds a device so long
MOST_LEASE_SECONDS = 2 * 86400  # a staged device may wait for a window of the next night
ID = r"[0-9a-f]{8,64}"
WORD = r"[A-Za-z0-9._@-]{1,64}"
"""What a holder and its purpose can look like: a word for a device's door and for a message."""


class LeaseState(msgspec.Struct, frozen=True):
    """A lease that is held.

    Attributes:
        id: of the rollout; it takes its own lease again at once.
        holder: the operator, `user@host`.
        about: what it is for, such as `rollout-7`.
        age_seconds: since it was taken first.
        left_seconds: until it ends by itself.
    """

    id: str
    holder: str
    about: str
    age_seconds: float
    left_seconds: float

    def __str__(self) -> str:
        return f"{self.holder} ({self.about})"


class LeaseAnswer(msgspec.Struct, frozen=True):
    """What a device says to whoever wants its lease.

    Attributes:
        taken: whether it was taken.
        lease: the lease that is held now; None: none is.
        taken_over_by: who took the device over from this id; empty: nobody did.
    """

    taken: bool
    lease: LeaseState | None = None
    taken_over_by: str = ""


def is_id(text: str) -> bool:
    """Whether a text can be the id of a lease."""
    return re.fullmatch(ID, text) is not None


def is_word(text: str) -> bool:
    """Whether a text can be a holder or a purpose."""
    return re.fullmatch(WORD, text) is not None


def as_word(text: str) -> str:
    """A text as such a word: letters that it cannot have become `-`."""
    return re.sub(r"[^A-Za-z0-9._@-]", "-", text)[:64] or "-"
