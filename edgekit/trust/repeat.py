"""Metadata that this very code has verified before: only the time can change the answer.

A push of what runs offers the files that the device has verified and kept. python-tuf would take
60 ms of CPU on a PC, and seconds on a small board, to say the same again. `accept` is a function of
what is kept, what is offered and the clock; so for the same files its answer differs by the clock
alone, and of the clock it asks one thing: whether a file has expired.

"Verified before" is a digest in `trusted.json`, over the files and over the code that verified
them: agent and runtime of a device lie in trees that are named by their digests. After a byte has
rotted, or with other rules, all is verified again. Whoever can forge the digest can write to
ROOT/etc/trust and put a root of trust of their own there (docs/adr/0030).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.trust.metadata import (
    LIFETIMES,
    KeptTrust,
    TrustedSet,
    accept,
    check_sizes,
    device_time,
    warnings,
)
from edgekit.trust.signed import Metadata, SignedTarget

_NAMES = ("root", "timestamp", "snapshot", "targets")
_CODE = tuple(str(Path(file).resolve()) for file in (__file__, msgspec.__file__))


class _Signed(msgspec.Struct, frozen=True):
    version: int
    expires: datetime
    targets: dict[str, SignedTarget] = {}


def proof_of(kept: KeptTrust) -> str:
    """The digest that says: this code has verified these files."""
    told = msgspec.json.encode((_CODE, msgspec.structs.replace(kept, proof="")))
    return hashlib.sha256(told).hexdigest()


def believe(
    kept: KeptTrust | None, anchor: str | None, offered: Metadata, clock: float
) -> TrustedSet:
    """As `accept`, and as strict; it costs less where nothing but the time is new.

    Raises:
        VerificationError: as `accept`.
    """
    return repeated(kept, offered, clock) or accept(kept, anchor, offered, clock)


def repeated(kept: KeptTrust | None, offered: Metadata, clock: float) -> TrustedSet | None:
    """What `accept` would return; None if it has to be asked, also where it would refuse."""
    if kept is None or kept.proof != proof_of(kept):
        return None
    check_sizes(offered)
    if any(getattr(offered, name) != getattr(kept, name) for name in _NAMES[1:]):
        return None
    try:
        files = {name: _read(getattr(kept, name)) for name in _NAMES}
        newest = max((_read(text).version for text in set(offered.roots) - {kept.root}), default=0)
    except (*UNREADABLE, KeyError, TypeError, OverflowError):  # a time before year 1 overflows
        return None
    now = device_time(clock, kept.signed_at)
    expiries = {name: files[name].expires for name in LIFETIMES}
    if newest > files["root"].version or min(expiries.values()) <= now:
        return None
    return TrustedSet(
        kept.root, kept.root, kept.timestamp, kept.snapshot, kept.targets, kept.signed_at,
        files["targets"].targets, tuple(warnings(expiries, now)),
    )  # fmt: skip


def _read(text: str) -> _Signed:
    """What a file says, read as python-tuf reads it: of two equal keys the last one counts."""
    read: Any = json.loads(text)
    signed = msgspec.convert(read["signed"], _Signed)
    return msgspec.structs.replace(signed, expires=signed.expires.astimezone(UTC))
