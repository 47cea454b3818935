"""What a device does about its desired state. Pure.

A desired state comes from a broker, which is not trusted. So it never decides more than which
release is looked at next: whether that one may run is decided by the signed metadata, in `fetch`.
The rules:

1.  What runs already is not touched.
2.  A release on trial, or unproven, is the supervisor's alone.
3.  A release that failed its trial here is not tried again within an hour, whoever asks for it.
4.  An order that has ended is not begun again: an operator who goes back by other means is right.
5.  Everything else is fetched, verified and staged, and switched to if that is asked for.
"""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.protocol.payloads import MAX_DESIRED_BYTES, DesiredPayload, UpdateState
from edgekit.core.reading import UNREADABLE
from edgekit.core.release import ReleaseState
from edgekit.errors import VerificationError

RETRY_BAD_SECONDS = 3600.0  # a release whose trial failed
MAX_NAME = 160


class Desired(msgspec.Struct, frozen=True):
    """A desired state that can be read."""

    release: Digest
    name: str
    rollout: int
    order: int
    switch: bool


class ReleaseStanding(msgspec.Struct, frozen=True):
    """How the desired release stands on this device.

    Attributes:
        current: what runs.
        state: of the desired release; None: it is not here.
        reason: why it failed, or why its configuration did.
        since_seconds: for how long it has been in this state, by a clock that may be set meanwhile.
        unproven: why its trial has no verdict yet; empty: it has, or there was none.
        soak_seconds: what is left of its soak.
        ended: how this very order has ended, as the last report says; empty: it has not.
    """

    current: Digest | None
    state: ReleaseState | None = None
    reason: str = ""
    since_seconds: float = 0.0
    unproven: str = ""
    soak_seconds: float = 0.0
    ended: UpdateState | None = None


class Leave(msgspec.Struct, frozen=True):
    """Do nothing; the desired release is in `state`."""

    state: UpdateState
    reason: str = ""
    soak_seconds: float = 0.0


class Bring(msgspec.Struct, frozen=True):
    """Fetch, verify and stage it; then switch to it if `switch`."""

    switch: bool


def parse_desired(data: bytes) -> Desired | None:
    """Read a desired state; None for anything else. Fields of a later version are left aside."""
    if not data or len(data) > MAX_DESIRED_BYTES:
        return None
    try:
        told = msgspec.json.decode(data, type=DesiredPayload)
        release = Digest.parse(told.release)
    except (*UNREADABLE, VerificationError):
        return None
    if min(told.rollout, told.order) < 0 or max(told.rollout, told.order) >= 1 << 53:
        return None
    name = "".join(letter for letter in told.name if letter.isprintable())[:MAX_NAME]
    return Desired(release, name, told.rollout, told.order, told.switch)


def encode_desired(desired: Desired) -> bytes:
    """The payload of a desired state."""
    return msgspec.json.encode(
        DesiredPayload(
            str(desired.release), desired.name, desired.rollout, desired.order, desired.switch
        )
    )


def decide(desired: Desired, found: ReleaseStanding) -> Leave | Bring:
    """What to do about a desired state."""
    if found.unproven:
        return Leave("unproven", found.unproven)
    if found.current == desired.release:
        if found.state == ReleaseState.TRIAL:
            return Leave("trial", soak_seconds=found.soak_seconds)
        if found.state == ReleaseState.GOOD:
            return Leave("failed" if found.reason else "good", found.reason)
    if found.state == ReleaseState.TRIAL:
        return Leave("trial")
    if found.state == ReleaseState.BAD and found.since_seconds < RETRY_BAD_SECONDS:
        return Leave("failed", found.reason)
    if found.ended == "good":
        return Leave("failed", "it was good here, and the device has left it since")
    if found.ended == "failed":
        return Leave("failed", found.reason)
    return Bring(desired.switch)
