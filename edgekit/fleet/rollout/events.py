"""What a rollout is told, and what it asks for. The journal keeps the first as JSON.

Times are Unix seconds of the controller: a rollout outlives its controller's processes.
"""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest, decode_hook, encode_hook
from edgekit.core.quality import QualityReport


class RolloutEvent(msgspec.Struct, frozen=True, tag_field="event"):
    """Something that happened; a line of the journal."""


# --- what the devices do ----------------------------------------------------------------------
class DeviceStaged(RolloutEvent, frozen=True, tag="staged"):
    """Every byte is on the device and verified; the device runs `before` (None: nothing)."""

    device: str
    before: Digest | None = None


class DeviceAnswers(RolloutEvent, frozen=True, tag="answers"):
    """The release answers there, and is on trial for `soak_seconds` more."""

    device: str
    soak_seconds: float


class DeviceGood(RolloutEvent, frozen=True, tag="good"):
    """The device calls the release good.

    One that pulls says what it ran `before` it heard of the release; None: it does not say.
    """

    device: str
    before: Digest | None = None


class DeviceFailed(RolloutEvent, frozen=True, tag="failed"):
    """The device does not run the release; `reason` is its own word or the refusal."""

    device: str
    reason: str


class DeviceAway(RolloutEvent, frozen=True, tag="away"):
    """The device cannot be reached, or its trial could not reach the broker: no verdict."""

    device: str
    reason: str


class DeviceBack(RolloutEvent, frozen=True, tag="back"):
    """The device runs what it ran before the rollout."""

    device: str


# --- what people and programs say -------------------------------------------------------------
class RolloutStarted(RolloutEvent, frozen=True, tag="started"):
    """The first event of every rollout."""

    by: str


class HookEnded(RolloutEvent, frozen=True, tag="hook"):
    """The hook before or after the present wave has ended; empty `trouble`: well."""

    trouble: str = ""


class QualityTold(RolloutEvent, frozen=True, tag="quality"):
    """A device of the first wave has compared the release with the one before it, or says why it
    cannot."""

    device: str
    report: QualityReport


class WindowChanged(RolloutEvent, frozen=True, tag="window"):
    """Devices may switch from now on, or may not any more; staging goes on either way.

    `window` is one of the plan's: it is said of the devices that have it. Empty: of all devices.
    """

    open: bool
    window: str = ""


class PauseOrdered(RolloutEvent, frozen=True, tag="pause"):
    """Begin nothing more on any device; what was begun ends."""

    by: str
    reason: str = ""


class ResumeOrdered(RolloutEvent, frozen=True, tag="resume"):
    """Go on; devices that failed are tried again if `retry_failed`."""

    by: str
    retry_failed: bool = False


class AbortOrdered(RolloutEvent, frozen=True, tag="abort"):
    """Never go on. Devices that have the release keep it."""

    by: str


class RollbackOrdered(RolloutEvent, frozen=True, tag="rollback"):
    """Take every device that this rollout switched back to what it ran before."""

    by: str


class ClockTicked(RolloutEvent, frozen=True, tag="tick"):
    """Time has passed; written to the journal only where it changes something."""


class ClockSet(RolloutEvent, frozen=True, tag="clock"):
    """The controller's clock was set, forward by so many seconds; what waits goes on waiting."""

    seconds: float


AnyEvent = (
    DeviceStaged
    | DeviceAnswers
    | DeviceGood
    | DeviceFailed
    | DeviceAway
    | DeviceBack
    | RolloutStarted
    | HookEnded
    | QualityTold
    | WindowChanged
    | PauseOrdered
    | ResumeOrdered
    | AbortOrdered
    | RollbackOrdered
    | ClockTicked
    | ClockSet
)


def as_written(event: RolloutEvent) -> RolloutEvent:
    """The event as the journal will read it.

    Raises:
        ValueError: or another one of `UNREADABLE`: a device's word in it is of another type, and no
            one could read the journal any more.
    """
    data = msgspec.json.encode(event, enc_hook=encode_hook)
    found: RolloutEvent = msgspec.json.decode(data, type=AnyEvent, dec_hook=decode_hook)
    return found


# --- effects ----------------------------------------------------------------------------------
class StageOn(msgspec.Struct, frozen=True):
    """Bring the release to a device and have it verify every byte."""

    device: str


class SwitchOn(msgspec.Struct, frozen=True):
    """Activate the staged release on a device."""

    device: str


class AskVerdict(msgspec.Struct, frozen=True):
    """Ask a device for the verdict of its trial, not before `at`."""

    device: str
    at: float


class GoBackOn(msgspec.Struct, frozen=True):
    """Roll a device back to what it ran before the rollout; None: it ran nothing."""

    device: str
    before: Digest | None = None


class RunHook(msgspec.Struct, frozen=True):
    """Run the operator's command before or after a wave, counted from 1."""

    wave: int
    after: bool


class AskQuality(msgspec.Struct, frozen=True):
    """Ask a device how the release compares with the one before it, until it knows."""

    device: str


RolloutEffect = StageOn | SwitchOn | AskVerdict | GoBackOn | RunHook | AskQuality
