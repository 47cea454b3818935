"""Releases on a ROOT without a push: bundles of a few bytes, staged by the device's own code."""

from __future__ import annotations

import platform
import sys

from edgekit.agent.release.root import Root
from edgekit.agent.release.staging.stage import stage
from edgekit.agent.release.state import Releases
from edgekit.bundle.tar import compress, plain_tar
from edgekit.core.digest import Digest
from edgekit.core.manifest import (
    AGENT_TYPE,
    BUNDLE_TYPE,
    CONFIG_TYPE,
    MANIFEST_TYPE,
    PLATFORM,
    PYTHON,
    RUNTIME_TYPE,
    TITLE,
    UNPACKED,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    oci_platform,
)
from edgekit.core.release import ReleaseEvent
from edgekit.store import replace_link
from edgekit.trust.pinned import PinnedManifest, pin
from tests.trusted import vouched


def tree(**files: str) -> bytes:
    """A layer with these files (`a__b` lies in the folder a) and a package edgekit."""
    named = [(f"{name.replace('__', '/')}.py", text.encode()) for name, text in files.items()]
    return b"".join(compress(plain_tar([("edgekit/__init__.py", b""), *named])))


def bundle(
    version: str, weights: bytes, agent: bytes, runtime: bytes, **annotations: str
) -> tuple[PinnedManifest, list[bytes]]:
    """A manifest for this machine, and its blobs."""
    config = encode(BundleConfig("tiny", version, "llama", "", 16, 1, 16, Fit(0, 0)))
    here = {
        PLATFORM: oci_platform(platform.machine()),
        PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}",
    }

    def layer(kind: str, data: bytes, **more: str) -> Descriptor:
        return Descriptor(kind, Digest.of(data), len(data), more)

    manifest = Manifest(
        2,
        MANIFEST_TYPE,
        BUNDLE_TYPE,
        layer(CONFIG_TYPE, config),
        [
            layer(WEIGHT_TYPE, weights, **{TITLE: "model.data"}),
            layer(AGENT_TYPE, agent, **{UNPACKED: "100000"}),
            layer(RUNTIME_TYPE, runtime, **(here | {UNPACKED: "100000"} | annotations)),
        ],
    )
    data = encode(manifest)
    return pin(data, Digest.of(data)), [config, weights, agent, runtime, data]


def weights_of(version: str, size: int = 300_000) -> bytes:
    """Bytes that no other version has."""
    return (version.encode() * size)[:size]


def staged(root: Root, version: str, runtime: bytes | None = None) -> Digest:
    """A release whose model and agent are its own and whose runtime is shared."""
    own = tree(own=f"VERSION = {version!r}")
    offered, blobs = bundle(
        version, weights_of(version), own, runtime or tree(runtime__core="shared = 1")
    )
    for data in blobs:
        root.store.put(data)
    vouched(root, offered)
    stage(root, offered.digest)
    return offered.digest


def activated(root: Root, version: str) -> Digest:
    """A release that became good after the one that is current, as an activation does it."""
    digest = staged(root, version)
    releases = Releases(root.path)
    releases.move(digest, ReleaseEvent.ACTIVATE)
    if root.linked(root.current) is not None:
        replace_link(root.previous, str(root.current.readlink()))
    replace_link(root.current, f"releases/{digest.hex}")
    releases.move(digest, ReleaseEvent.ANSWERED)
    return digest
