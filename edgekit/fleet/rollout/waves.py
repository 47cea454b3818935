"""Which devices come in which wave, and the terms of a rollout. Pure.

One canary for each class of hardware, then 5, 25 and 100 % of all devices. A percentage of a small
fleet is rounded up, so that no wave is empty. The order within a class comes from a hash of rollout
and device: another rollout has other canaries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from edgekit.core.config import MOST_SECONDS
from edgekit.core.digest import Digest
from edgekit.core.quality import QualityBound
from edgekit.fleet.rollout.windows.window import parse_window

SHARES = (0.05, 0.25, 1.0)  # of all devices, after the canaries
HOOK_SECONDS = 600.0
CONNECTS = 30
_BOUND = QualityBound()
UNKNOWN = ""
"""The class of hardware of a device that could not be asked."""
SMALL = 5  # a fleet up to this size has one wave unless asked otherwise


class Terms(msgspec.Struct, frozen=True):
    """How careful a rollout is.

    Attributes:
        parallel: devices that are worked on at one time.
        soak_seconds: from the last good device of a wave to the next wave.
        failures: a number of failed devices that does not pause a rollout yet.
        failure_share: and a share of the devices that were begun; the larger one counts.
        confirm: pause after each wave that went well, until a person or a program resumes.
        hook_before: argv of a command that runs on the controller before each wave; empty: none.
        hook_after: argv of one that runs after each wave that went well.
        hook_seconds: a hook may take so long.
        stage_only: bring the bytes and do not switch.
        late_seconds: from a device that was away to the next try; doubles up to an hour.
        connects: connections that may be open at one time.
        lock_wait_seconds: how long a device that another operator holds is waited for.
        quality: the first wave waits for its devices' scores against the release before.
        quality_seconds: for so long.
        quality_agreement, quality_kl, quality_length, quality_loops: the bound, as `QualityBound`.
    """

    parallel: int = 8
    soak_seconds: float = 0.0
    failures: int = 1
    failure_share: float = 0.05
    confirm: bool = False
    hook_before: list[str] = []
    hook_after: list[str] = []
    stage_only: bool = False
    late_seconds: float = 60.0
    hook_seconds: float = HOOK_SECONDS
    connects: int = CONNECTS
    lock_wait_seconds: float = 0.0
    quality: bool = False
    quality_seconds: float = 900.0
    quality_agreement: float = _BOUND.agreement
    quality_kl: float = _BOUND.kl
    quality_length: float = _BOUND.length_factor
    quality_loops: float = _BOUND.loops_added

    @property
    def bound(self) -> QualityBound:
        """Below what the quality of the first wave pauses."""
        return QualityBound(
            self.quality_agreement, self.quality_kl, self.quality_length, self.quality_loops
        )

    def __post_init__(self) -> None:
        if min(self.parallel, self.connects) < 1:
            raise ValueError("parallel and connects are 1 or more")
        if not 0 <= self.failure_share <= 1:
            raise ValueError("failure_share is between 0 and 1")
        if self.failures < 0:
            raise ValueError("failures is not negative")
        if not 0 < self.quality_seconds <= MOST_SECONDS:
            raise ValueError(f"quality_seconds is above 0 and at most {MOST_SECONDS:g}")
        assert self.bound  # which checks its values
        for name in ("soak_seconds", "late_seconds", "lock_wait_seconds"):
            if not 0 <= getattr(self, name) <= MOST_SECONDS:
                raise ValueError(f"{name} is 0 to {MOST_SECONDS:g}")
        if not 0 < self.hook_seconds <= MOST_SECONDS:
            raise ValueError(f"hook_seconds is above 0 and at most {MOST_SECONDS:g}")
        for name in ("hook_before", "hook_after"):
            if getattr(self, name)[:1] == [""]:
                raise ValueError(f"{name} begins with the name of a program")


class RolloutPlan(msgspec.Struct, frozen=True):
    """What a rollout brings where, in which order. Its digest names it.

    Attributes:
        release: the bundle.
        waves: names of devices; the first wave holds the canaries if there are several.
        kinds: the class of hardware of each device.
        windows: when a device may switch, as `window.parse_window` reads it; others always may.
    """

    release: Digest
    waves: list[list[str]]
    kinds: dict[str, str]
    terms: Terms = Terms()
    windows: dict[str, str] = {}

    def __post_init__(self) -> None:
        names = [name for wave in self.waves for name in wave]
        if len(set(names)) != len(names) or not names or not all(self.waves):
            raise ValueError("each device is in one wave, and no wave is empty")
        if set(names) - set(self.kinds):
            raise ValueError("each device has a class of hardware")
        for window in self.windows.values():
            parse_window(window)


def waves_of(
    kinds: Mapping[str, str],
    release: Digest,
    shares: Sequence[float] | None = None,
    unchanged: AbstractSet[str] = frozenset(),
) -> list[list[str]]:
    """Divide devices into waves. Those of unknown hardware come last: they are no canaries.

    One wave is enough where no device would change, unless shares are given.

    Args:
        kinds: the class of hardware of each device, or `UNKNOWN`.
        release: what comes; it decides the order.
        shares: of all devices, growing, the last 1.0; none: one wave for a handful of devices,
            else the canaries and `SHARES`.
        unchanged: devices that run the release already, as they should.
    """

    def place(name: str) -> tuple[bool, bytes]:
        digest = hashlib.sha256(f"{release.hex} {name}".encode()).digest()
        return kinds[name] == UNKNOWN, digest

    order = sorted(kinds, key=place)
    if shares is None and (len(order) <= SMALL or unchanged >= kinds.keys()):
        return [sorted(order)] if order else []
    first: dict[str, str] = {}
    for name in order:
        if kinds[name] != UNKNOWN or not first:
            first.setdefault(kinds[name], name)
    canaries = sorted(first.values())
    rest = [name for name in order if name not in first.values()]
    waves, done = [canaries], len(canaries)
    for share in shares or SHARES:
        upto = min(len(order), math.ceil(len(order) * share))
        count = max(0, upto - done)
        if wave := rest[:count]:
            waves.append(sorted(wave))
            rest, done = rest[count:], upto
    return waves
