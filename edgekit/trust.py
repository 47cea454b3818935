"""Verification returns a type: what a device stages must come through here.

Until TUF metadata travels with a bundle, the stand-in is `PinnedManifest`: bytes whose digest was
given over the authenticated channel of a push. `stage` takes nothing weaker.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.core.digest import Digest
from edgekit.core.manifest import Manifest, parse_manifest
from edgekit.errors import VerificationError


@dataclass(frozen=True, slots=True)
class PinnedManifest:
    """A manifest whose bytes have the digest that was asked for. Made by `pin` alone."""

    digest: Digest
    manifest: Manifest
    data: bytes


def pin(data: bytes, digest: Digest) -> PinnedManifest:
    """Hash first, parse after.

    Raises:
        VerificationError: other bytes than asked for, or not a bundle.
    """
    got = Digest.of(data)
    if got != digest:
        raise VerificationError(
            "the manifest is not the one that was asked for", f"asked {digest}, got {got}"
        )
    return PinnedManifest(digest, parse_manifest(data), data)
