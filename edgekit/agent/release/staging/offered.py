"""An offer as it comes in: who holds the device from now on, and what it lacks of the release."""

from __future__ import annotations

from typing import BinaryIO

import msgspec

from edgekit.agent.release import holder
from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.permission import admit, remember
from edgekit.agent.release.staging.stage import foresee, offer
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseAnswer
from edgekit.errors import EdgekitError
from edgekit.trust.metadata import MAX_OFFER_BYTES, parse_offered


def take_offer(root: Root, digest: Digest, stream: BinaryIO) -> dict[str, object]:
    """Take the device for whoever offers, store the manifest, and say what is missing.

    Returns:
        What `stage.offer` returns, with `warnings` and `lease`. If another one holds the device,
        nothing is missing and `lease` says who it is.

    Raises:
        VerificationError: the metadata is not accepted, or not this release.
        EdgekitError: the disk is too small, or another push is in progress.
    """
    offered = parse_offered(stream.read(MAX_OFFER_BYTES + 1))
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
    except EdgekitError:
        if lease is not None:
            holder.settle(root)
        raise
    return answer | {"warnings": list(trusted.warnings), "lease": msgspec.to_builtins(lease)}


def foresee_offer(root: Root, digest: Digest, stream: BinaryIO) -> dict[str, object]:
    """What an offer would answer; nothing is written, not even the refusal."""
    offered = parse_offered(stream.read(MAX_OFFER_BYTES + 1))
    verified, trusted = admit(root, digest, offered)
    answer = foresee(root, verified) | {"warnings": list(trusted.warnings)}
    if (held := holder.held(root)) is not None:
        answer["lease"] = msgspec.to_builtins(LeaseAnswer(False, held))
    return answer
