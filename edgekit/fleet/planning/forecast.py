"""What a push would do to one device, of what the device says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.core.manifest import BundleConfig
from edgekit.errors import EdgekitError
from edgekit.fleet.check import RunningRelease
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.hardware import hardware_class
from edgekit.fleet.plan import DryOffer, config_bytes
from edgekit.trust.metadata import accept
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata
from edgekit.trust.verified import hardware_names, verify


class PushOutcome(StrEnum):
    """What a push would do to a device."""

    ALREADY = "already"
    SETTINGS = "new settings"
    STARTED = "started"  # it has everything, and does not answer
    MENDED = "mended"  # it runs the release, and lacks some of its bytes
    SWITCHED = "switched"
    REFUSED = "refused"
    AWAY = "away"


class DeviceForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a push would do to one device; sizes in bytes, times in seconds.

    Attributes:
        hardware_class: empty: the device was not reached.
        runs: what runs now; None: nothing, or not known.
        error: why the device is refused or away.
        estimated: the device could not say what it lacks: that is reckoned by what it runs.
        sends: the blobs that it lacks.
        bytes: to send, with those of a first contact.
        first_contact: of these, the bytes of a first contact.
        rate: bytes per second of its last push; None: not known.
        seconds: the transfer at that rate; None: not known.
        free, free_after: of its disk, before and after; None: not known.
        ram_needed: of the release at its context.
        silent_seconds: for how long nobody answered when it was switched last; None: not known.
    """

    device: str
    address: str
    outcome: PushOutcome
    hardware_class: str = ""
    runs: RunningRelease | None = None
    error: dict[str, str] | None = None
    estimated: bool = False
    sends: list[Digest] = []
    bytes: int = 0
    first_contact: int = 0
    rate: float | None = None
    seconds: float | None = None
    free: int | None = None
    free_after: int | None = None
    ram_bytes: int = 0
    ram_needed: int = 0
    silent_seconds: float | None = None
    warnings: list[str] = []

    @property
    def fits(self) -> bool:
        """Whether a push would bring the device to the release."""
        return self.outcome not in (PushOutcome.REFUSED, PushOutcome.AWAY)


@dataclass(frozen=True)
class Answered:
    """What a device said, or would: see `DeviceForecast` for the words."""

    offer: DryOffer
    estimated: bool
    first_contact: int
    rate: float | None


def forecast(
    device: str,
    address: str,
    facts: DeviceFacts,
    bundle: BundleConfig,
    runs: RunningRelease | None,
    answered: Answered | EdgekitError,
    config: AgentConfig,
    release: Digest,
) -> DeviceForecast:
    """Say what a push would do.

    Args:
        device, address: of the device, as fleet.toml has them.
        facts: of the device.
        bundle: the config of the release.
        runs: what runs there.
        answered: what it lacks, or why it is refused.
        config: the `agent.toml` that it gets.
        release: what is pushed.
    """
    known = DeviceForecast(
        device=device,
        address=address,
        outcome=PushOutcome.REFUSED,
        hardware_class=hardware_class(facts),
        runs=runs,
        free=facts.free_bytes,
        ram_bytes=facts.ram_bytes,
        ram_needed=bundle.fit.ram_bytes,
        silent_seconds=runs.silent_seconds if runs else None,
    )
    if isinstance(answered, EdgekitError):
        return msgspec.structs.replace(known, error=answered.to_dict())
    offer = answered.offer
    total = offer.bytes_to_send + answered.first_contact
    rate = answered.rate
    return msgspec.structs.replace(
        known,
        outcome=_outcome(facts, runs, offer, config, release),
        estimated=answered.estimated,
        sends=[each.digest for each in offer.in_order()],
        bytes=total,
        first_contact=answered.first_contact,
        rate=rate,
        seconds=0.0 if not total else total / rate if rate else None,
        free=offer.room.free - offer.collected if facts.free_bytes is not None else None,
        free_after=offer.room.free_after if facts.free_bytes is not None else None,
        warnings=offer.warnings,
    )


def _outcome(
    facts: DeviceFacts,
    runs: RunningRelease | None,
    offer: DryOffer,
    config: AgentConfig,
    release: Digest,
) -> PushOutcome:
    if facts.current != release:
        return PushOutcome.SWITCHED
    if offer.missing:
        return PushOutcome.MENDED
    if config_bytes(config, facts, release) != facts.config.encode():
        return PushOutcome.SETTINGS
    return (
        PushOutcome.STARTED if runs is not None and runs.answering is False else PushOutcome.ALREADY
    )


def away(device: str, address: str, error: EdgekitError) -> DeviceForecast:
    """The forecast of a device that was not reached."""
    return DeviceForecast(
        device=device, address=address, outcome=PushOutcome.AWAY, error=error.to_dict()
    )


def check_signed(
    facts: DeviceFacts, pinned: PinnedManifest, metadata: Metadata | None, clock: float
) -> list[str]:
    """Check metadata as a device will that has no agent yet to ask; return its warnings.

    What only the device knows, the root that it trusts and the counter that was good there, is
    checked there.

    Args:
        facts: of the device; its own clock counts where it says one.
        pinned, metadata: what is pushed.
        clock: ours, in Unix seconds.

    Raises:
        VerificationError: the device would refuse them.
    """
    if metadata is None:
        return []
    trusted = accept(None, None, metadata, clock if facts.clock is None else facts.clock)
    names = hardware_names(facts.platform, facts.hardware)
    verify(pinned.data, pinned.digest, trusted, names, 0)
    return list(trusted.warnings)
