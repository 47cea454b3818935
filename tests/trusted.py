"""For tests that stage: sign any manifest with the tests' keys, as a push of a project would."""

from __future__ import annotations

import msgspec

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.counters import Counters
from edgekit.agent.release.staging.permission import admit, remember
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    TITLE,
    Descriptor,
    Manifest,
    encode,
)
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Offered
from edgekit.trust.verified import VerifiedManifest
from tests.metadata_maker import Maker


def vouched(root: Root, manifest: bytes | Manifest | PinnedManifest) -> VerifiedManifest:
    """Sign a manifest, newer than all that was good in ROOT, and make ROOT trust it.

    `offer(root, vouched(root, manifest))` is then what a push does.
    """
    data = as_bytes(manifest)
    maker = shared_maker()
    digest = maker.sign(data, Counters(root.path).highest() + 1)
    maker.bump()
    verified, trusted = admit(root, digest, Offered(data.decode(), maker.made()))
    remember(root, trusted)
    return verified


def offer_bytes(manifest: bytes | Manifest | PinnedManifest, counter: int = 1) -> bytes:
    """The standard input of `agent stage DIGEST --offer` for a manifest."""
    data = as_bytes(manifest)
    maker = shared_maker()
    maker.sign(data, counter)
    maker.bump()
    return msgspec.json.encode(Offered(data.decode(), maker.made()))


def as_bytes(manifest: bytes | Manifest | PinnedManifest) -> bytes:
    """The bytes of a manifest in any of its forms."""
    if isinstance(manifest, bytes):
        return manifest
    return manifest.data if isinstance(manifest, PinnedManifest) else encode(manifest)


def digest_of(manifest: bytes | Manifest | PinnedManifest) -> Digest:
    """The name of the release."""
    return Digest.of(as_bytes(manifest))


_MAKER: list[Maker] = []


def shared_maker() -> Maker:
    """The one project whose keys sign in this process; its versions only rise."""
    if not _MAKER:
        _MAKER.append(Maker())
    return _MAKER[0]


def permit(root: Root, name: str) -> Digest:
    """The name of a release that ROOT may activate, but for its folder: the test makes that one."""
    some = Descriptor(AGENT_TYPE, Digest.of(name.encode()), len(name), {TITLE: name})
    config = Descriptor(CONFIG_TYPE, some.digest, some.size)
    verified = vouched(root, Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, [some]))
    root.store.put(verified.data)
    Counters(root.path).stage(verified.digest, verified.signed.counter)
    return verified.digest
