"""An offer as it comes in: who holds the device from now on, and what it lacks of the release."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import msgspec

from edgekit.agent.release import holder
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.permission import admit, remember
from edgekit.agent.release.staging.stage import foresee, offer
from edgekit.agent.release.state import Releases
from edgekit.core.digest import Digest
from edgekit.errors import EdgekitError
from edgekit.trust.metadata import MAX_OFFER_BYTES, parse_offered
from edgekit.trust.signed import Offered
from edgekit.trust.verified import VerifiedManifest

Confirm = Callable[[Root, VerifiedManifest, bytes], dict[str, object]]


def read_offer(stream: BinaryIO) -> Offered:
    """What a push offers; raises VerificationError for what is no offer."""
    return parse_offered(stream.read(MAX_OFFER_BYTES + 1))


def take_offer(
    root: Root, digest: Digest, offered: Offered, confirm: Confirm | None = None
) -> dict[str, object]:
    """Take the device for whoever offers, store the manifest, and say what is missing.

    Returns:
        What `stage.offer` returns, with `warnings` and `lease`; and what `confirm` says if nothing
        is missing and the offer expects that nothing changes. If another one holds the device,
        nothing is missing and `lease` says who it is.

    Raises:
        VerificationError: the metadata is not accepted, or not this release.
        EdgekitError: the disk is too small, or another push is in progress.
    """
    lease = None
    if offered.lease is not None:  # before the update lock, which its holder may have for minutes
        root.create()
        lease = holder.take(root, offered.lease)
        if not lease.taken:
            return {"missing": [], "lease": msgspec.to_builtins(lease)}
    try:
        with root.updating():
            holder.check(root)
            verified, trusted = admit(root, digest, offered)
            answer = offer(root, verified)
            remember(root, trusted)
            if offered.lease is not None and offered.lease.head:
                Releases(root.path).offered(digest, offered.lease)
    except EdgekitError:
        if lease is not None:
            holder.settle(root)
        raise
    answer |= {"warnings": list(trusted.warnings), "lease": msgspec.to_builtins(lease)}
    if confirm is not None and offered.config and not answer["missing"]:
        answer |= confirm(root, verified, offered.config.encode())
    return answer


def foresee_offer(root: Root, digest: Digest, offered: Offered) -> dict[str, object]:
    """What an offer would answer; nothing is written, not even the refusal."""
    verified, trusted = admit(root, digest, offered)
    warnings = list(trusted.warnings)
    if (held := holder.held(root)) is not None:
        warnings.append(f"{held} holds this device for {held.left_seconds:.0f} s more at most")
    return foresee(root, verified) | {"warnings": warnings}
