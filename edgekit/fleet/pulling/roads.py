"""The hands of a rollout whose devices are reached in two ways: by SSH, and by the broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.rollout.device import GONE, DeviceState
from edgekit.fleet.rollout.events import (
    DeviceAway,
    DeviceFailed,
    HookEnded,
    QualityTold,
    RolloutEvent,
)
from edgekit.fleet.rollout.hands import REASON_LETTERS, Pushed, PushHands

if TYPE_CHECKING:  # brings an MQTT client, and most fleets are pushed to
    from edgekit.fleet.pulling.hands import PullHands
    from edgekit.fleet.rollout.machine import Rollout

AGAIN_SECONDS = 10.0  # about as long as a connection is tried for


class GoneHands:
    """Acts on no device: fleet.toml does not have it any more, and a rollback takes the others.

    What such a device has of the release is not known: `verdict` and `switch` call it away, so
    that its way back begins all the same, and fails by name.
    """

    def __init__(self) -> None:
        self.failed: dict[str, EdgekitError] = {}

    def stage(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return DeviceFailed(device, GONE)

    def switch(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return DeviceAway(device, GONE)

    def verdict(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return DeviceAway(device, GONE)

    def quality(self, device: str) -> QualityTold | None:
        """See `RolloutHands`."""
        return None

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """See `RolloutHands`."""
        self.failed[device] = UsageError(f"{device}: {GONE}", next_step=put_back([device]))
        return DeviceFailed(device, GONE)

    def let_go(self, device: str) -> None:
        """See `RolloutHands`."""


def put_back(devices: Sequence[str]) -> str:
    """What takes devices back that a rollback did not find in fleet.toml."""
    them, one = ("it", devices[0]) if len(devices) == 1 else ("them", "DEVICE")
    return f"put {them} back into fleet.toml, then `edgekit rollback {one}`"


class DeskHands:
    """Acts on devices that pull, once there is a broker to tell them by; see `RolloutHands`.

    A way back does not wait for the broker. A device that cannot be told is away, and is tried
    again like one that is off. Several threads call it; a broker that did not answer is left alone
    for `AGAIN_SECONDS`, or a thousand devices would wait for it one after the other.

    Args:
        connect: connects to the broker; raises EdgekitError.
    """

    def __init__(self, connect: Callable[[], PullHands]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._hands: PullHands | None = None
        self._silent: EdgekitError | None = None
        self._again_at = 0.0
        self._untold: dict[str, EdgekitError] = {}

    def reach(self) -> PullHands:
        """The hands at the broker; raises what `connect` raises."""
        with self._lock:
            if self._hands is None:
                if self._silent is not None and time.monotonic() < self._again_at:
                    raise self._silent
                try:
                    self._hands = self._connect()
                except EdgekitError as error:
                    self._silent, self._again_at = error, time.monotonic() + AGAIN_SECONDS
                    raise
            return self._hands

    @property
    def done(self) -> dict[str, Pushed]:
        """What was done on a device, once it answers."""
        return self._hands.done if self._hands else {}

    @property
    def failed(self) -> dict[str, EdgekitError]:
        """The error of a device that failed or is away."""
        return self._untold | (self._hands.failed if self._hands else {})

    def _act(self, device: str, act: Callable[[PullHands], RolloutEvent]) -> RolloutEvent:
        try:
            hands = self.reach()
        except EdgekitError as error:
            self._untold[device] = error
            reason = f"{error.what}: {error.why}" if error.why else error.what
            return DeviceAway(device, reason[:REASON_LETTERS])
        self._untold.pop(device, None)
        return act(hands)

    def stage(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._act(device, lambda hands: hands.stage(device))

    def switch(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._act(device, lambda hands: hands.switch(device))

    def verdict(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._act(device, lambda hands: hands.verdict(device))

    def quality(self, device: str) -> QualityTold | None:
        """See `RolloutHands`."""
        return self._hands.quality(device) if self._hands else None

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._act(device, lambda hands: hands.go_back(device, before))

    def let_go(self, device: str) -> None:
        """See `RolloutHands`; nothing is open to one device."""

    def stop(self) -> None:
        """See `RolloutHands`."""
        if self._hands:
            self._hands.stop()

    def leave_word(self, rollout: Rollout, devices: list[str]) -> list[str]:
        """See `PullHands`; the broker is not asked for devices that need no word."""
        if any(rollout.devices[name].state == DeviceState.AWAY for name in devices):
            self._again_at = 0.0  # it is the last word: one more try
            return self.reach().leave_word(rollout, devices)
        return []


class RoadHands:
    """Gives each act to the hands of its device; see `RolloutHands`.

    Args:
        push: for devices with an address.
        pull: for those that pull; None where there are none.
        pulling: names of the latter.
        gone: names of devices that fleet.toml does not have any more.
    """

    def __init__(
        self,
        push: PushHands,
        pull: DeskHands | PullHands | None,
        pulling: Collection[str],
        gone: Collection[str] = (),
    ) -> None:
        self._push, self._pull, self._pulling = push, pull, frozenset(pulling)
        self._nobody, self._gone = GoneHands(), frozenset(gone)

    @property
    def done(self) -> dict[str, Pushed]:
        """What was done on a device, once it answers."""
        return self._push.done | (self._pull.done if self._pull else {})

    @property
    def failed(self) -> dict[str, EdgekitError]:
        """The error of a device that failed or is away."""
        pulled = self._pull.failed if self._pull else {}
        return self._push.failed | pulled | self._nobody.failed

    @property
    def enrolled(self) -> dict[str, bool]:
        """Whether a device is enrolled, once it was connected to."""
        return self._push.enrolled

    def _of(self, device: str) -> PushHands | DeskHands | PullHands | GoneHands:
        if device in self._gone:
            return self._nobody
        return self._pull if self._pull and device in self._pulling else self._push

    def stage(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._of(device).stage(device)

    def switch(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._of(device).switch(device)

    def verdict(self, device: str) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._of(device).verdict(device)

    def quality(self, device: str) -> QualityTold | None:
        """See `RolloutHands`."""
        return self._of(device).quality(device)

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        """See `RolloutHands`."""
        return self._of(device).go_back(device, before)

    def hook(self, wave: int, after: bool) -> HookEnded:
        """See `RolloutHands`."""
        return self._push.hook(wave, after)

    def let_go(self, device: str) -> None:
        """See `RolloutHands`."""
        self._of(device).let_go(device)

    def stop(self) -> None:
        """See `RolloutHands`."""
        self._push.stop()
        if self._pull:
            self._pull.stop()
