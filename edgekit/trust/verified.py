"""A manifest that the project's signed metadata vouches for: a type that only `verify` makes.

`stage` takes nothing weaker.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.manifest import Manifest
from edgekit.errors import VerificationError
from edgekit.trust.metadata import TrustedSet
from edgekit.trust.pinned import pin
from edgekit.trust.signed import CUSTOM, SignedRelease, target_path

MAX_COUNTER = 1 << 53  # what every reader of JSON keeps exact
_VERIFY = object()  # the proof that `verify` made a value


class VerifiedManifest(msgspec.Struct, frozen=True):
    """A manifest whose digest, length, hardware and counter are signed. Only `verify` makes one."""

    digest: Digest
    manifest: Manifest
    data: bytes
    signed: SignedRelease
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not _VERIFY:
            raise TypeError("only `verify` makes a VerifiedManifest")


def hardware_names(platform: str, text: str) -> list[str]:
    """The names of a device's hardware: its OCI platform, and the lines of etc/hardware."""
    lines = (line.strip() for line in text.splitlines())
    return [platform, *(line for line in lines if line[:1] not in ("", "#"))]


def verify(
    data: bytes, digest: Digest, trusted: TrustedSet, hardware: Collection[str], good: int
) -> VerifiedManifest:
    """Check a manifest against verified metadata.

    Args:
        data: the manifest's bytes.
        digest: the release that was asked for.
        trusted: the verified metadata.
        hardware: the names of this device, its platform among them.
        good: the highest counter of a release that was good here; 0: none, or none matters.

    Raises:
        VerificationError: the release is not among the signed ones, its bytes differ, it is for
            other hardware, or it is older than what was good here.
    """
    pinned = pin(data, digest)
    signed = _signed(trusted, digest, len(data))
    if not set(signed.hardware) & set(hardware):
        raise VerificationError(
            f"release {digest.short} is signed for other hardware",
            f"it is for {', '.join(signed.hardware) or 'none'}; this device is "
            f"{', '.join(hardware)}",
            "`edgekit sign NAME:VERSION --hardware …`, or name the hardware in ROOT/etc/hardware",
        )
    if signed.counter < good and signed.rollback < good:
        raise VerificationError(
            f"release {digest.short} is older than what was good on this device",
            f"its counter is {signed.counter}, a release with {good} was good here",
            "`edgekit rollback` goes to the previous release; `edgekit sign NAME:VERSION "
            "--rollback` permits a downgrade",
        )
    return VerifiedManifest(digest, pinned.manifest, data, signed, _VERIFY)


def _signed(trusted: TrustedSet, digest: Digest, length: int) -> SignedRelease:
    target = trusted.releases.get(target_path(digest))
    if target is None:
        raise VerificationError(
            f"release {digest.short} is not signed",
            "this project's targets.json does not list it",
            "`edgekit sign NAME:VERSION`, then push again",
        )
    custom = target.custom
    try:
        signed = msgspec.convert(custom[CUSTOM] if custom else None, SignedRelease)
        usable = 0 < signed.counter < MAX_COUNTER and 0 <= signed.rollback < MAX_COUNTER
    except (msgspec.ValidationError, KeyError, TypeError):
        usable = False
    if not usable or target.length != length or target.hashes.get("sha256") != digest.hex:
        raise VerificationError(
            f"targets.json says of release {digest.short} what cannot be",
            "its length, digest, counter or hardware",
            "`edgekit sign NAME:VERSION` again",
        )
    return signed
