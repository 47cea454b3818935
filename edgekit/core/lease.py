"""The lease of a device as both ends say it: who holds it, for what, and for how long. Pure.

A rollout holds a device between its stage and the end of its trial, across SSH sessions. The lease
has a name and an end, so that a second operator is told who it is, and a controller that died
blocks nobody for ever.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

LEASE_SECONDS = 600.0  # a controller that is gone holds a device so long
MOST_LEASE_SECONDS = 2 * 86400  # a staged device may wait for a window of the next night
SOAK_SECONDS = 30.0  # it lasts so long after the end of a soak: then its verdict was asked for
ID = r"[0-9a-f]{8,64}"
WORD = r"[A-Za-z0-9._@-]{1,64}"
"""What a holder and its purpose can look like: a word for a device's door and for a message."""


class LeaseWish(msgspec.Struct, frozen=True):
    """Who wants a device.

    Attributes:
        id: of the project from which it is pushed: it takes its own lease again at once.
        holder: the operator, `user@host`.
        about: what it is for, such as `rollout-7`.
        seconds: from now on.
        take_over: break the lease of another one.
        head: of the rollout's journal, which the device keeps; empty: there is none.
    """

    id: Annotated[str, msgspec.Meta(pattern=rf"^{ID}\Z")]
    holder: Annotated[str, msgspec.Meta(pattern=rf"^{WORD}\Z")]
    about: Annotated[str, msgspec.Meta(pattern=rf"^{WORD}\Z")]
    seconds: Annotated[float, msgspec.Meta(gt=0, le=MOST_LEASE_SECONDS)] = LEASE_SECONDS
    take_over: bool = False
    head: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


class LeaseState(msgspec.Struct, frozen=True):
    """A lease that is held.

    Attributes:
        id, holder, about: of the wish.
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
        taken_over_by: who took the device over from this wish; empty: nobody did.
    """

    taken: bool
    lease: LeaseState | None = None
    taken_over_by: str = ""


def as_word(text: str) -> str:
    """A text as such a word: letters that it cannot have become `-`."""
    return re.sub(r"[^A-Za-z0-9._@-]", "-", text)[:64] or "-"
