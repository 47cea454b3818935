"""A manifest by its digest: what a controller reads from its own store.

A device wants more: `trust.verified` makes what it stages, of such a manifest and metadata.
"""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.manifest import Manifest, parse_manifest
from edgekit.errors import VerificationError


class PinnedManifest(msgspec.Struct, frozen=True):
    """A manifest whose bytes have the requested digest. Only `pin` makes one."""

    digest: Digest
    manifest: Manifest
    data: bytes


def pin(data: bytes, digest: Digest) -> PinnedManifest:
    """Check the digest of a manifest, then parse it.

    Raises:
        VerificationError: the bytes have another digest, or are not a bundle's manifest.
    """
    got = Digest.of(data)
    if got != digest:
        raise VerificationError(
            "the manifest is not the one that was asked for", f"asked {digest}, got {got}"
        )
    return PinnedManifest(digest, parse_manifest(data), data)
