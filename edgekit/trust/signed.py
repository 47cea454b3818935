"""What a project signs and what travels with it: values that controller and device share. Pure.

The files are TUF's own (specification 1.0.34, section 4). A release is a target: its digest and
length are the target's, and the rest is `SignedRelease` under the key `edgekit` of the target's
`custom`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseWish

CUSTOM = "edgekit"  # the key of `custom` that holds a SignedRelease


class SignedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata says of a release beside its digest and length.

    Attributes:
        name, version: of the bundle.
        counter: grows with each release that a project signs; a device refuses a lower one than
            that of the newest release that was good on it.
        hardware: names of which a device must have one, e.g. `linux/arm64`.
        rollback: a device whose newest good release has a counter up to this one may go back to
            this release; 0: a downgrade is refused.
    """

    name: str
    version: str
    counter: int
    hardware: list[str]
    rollback: int = 0


class SignedTarget(msgspec.Struct, frozen=True):
    """A release as targets.json lists it: its bytes, hashes by their names, and `custom`."""

    length: int
    hashes: dict[str, str]
    custom: Any = None


class Metadata(msgspec.Struct, frozen=True):
    """The metadata of one push: the texts of TUF's files.

    Attributes:
        roots: every version of root.json, from the first to the newest.
        timestamp, snapshot, targets: of the newest version.
    """

    roots: list[str]
    timestamp: str
    snapshot: str
    targets: str


class Offered(msgspec.Struct, frozen=True):
    """What a push offers: the standard input of `agent stage DIGEST --offer`, as JSON.

    `lease` is who pushes; a controller from before leases does not say it. `config` is the
    `agent.toml` of a push that seems to change nothing; empty otherwise.
    """

    manifest: str
    metadata: Metadata | None = None
    lease: LeaseWish | None = None
    config: str = ""


def target_path(release: Digest) -> str:
    """The path of a release among the targets."""
    return f"releases/{release.hex}"
