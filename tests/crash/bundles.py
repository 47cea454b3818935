"""Releases of a few bytes, as the controller of a world has them."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

import msgspec

from edgekit.bundle.tar import compress, plain_tar
from edgekit.core.config import AgentConfig, BrokerConfig
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
    WEIGHT_CONFIG_TYPE,
    WEIGHT_TYPE,
    BundleConfig,
    Descriptor,
    Fit,
    Manifest,
    encode,
    oci_platform,
)

HERE = oci_platform(platform.machine())
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BAD_PORT = 1  # no agent can run under a configuration with this one


def config_bytes(name: str) -> bytes:
    """An `agent.toml` that is told apart by this name."""
    return msgspec.toml.encode(
        AgentConfig("box", BrokerConfig(name), drain_seconds=1.0, trial_seconds=4.0)
    )


@dataclass(frozen=True)
class Bundle:
    """A release as the controller has it: its manifest, and its blobs in the order of a push."""

    digest: Digest
    manifest: bytes
    blobs: dict[Digest, bytes]
    model: dict[str, bytes]
    trees: dict[str, dict[str, bytes]]  # by the layer's digest in hexadecimal


def make_bundle(name: str, runtime: str = "runtime") -> Bundle:
    """A release: two model files, an agent of its own, a runtime that others may share."""
    return bundle_of(
        name,
        {"model.data": name.encode() * 700, "genai_config.json": f'"{name}"'.encode()},
        {"edgekit/__init__.py": b"", "edgekit/agent.py": f"# {name}".encode()},
        {f"{runtime}/__init__.py": b"pass", f"{runtime}/data.bin": b"\x7fELF" * 300},
    )


def bundle_of(
    name: str, model: dict[str, bytes], agent: dict[str, bytes], runtime: dict[str, bytes]
) -> Bundle:
    """A release of these files; the first model file counts as its weights."""
    layers: list[Descriptor] = []
    trees: dict[str, dict[str, bytes]] = {}
    blobs: dict[Digest, bytes] = {}

    def blob(data: bytes, kind: str, **notes: str) -> Descriptor:
        digest = Digest.of(data)
        blobs[digest] = data
        return Descriptor(kind, digest, len(data), notes)

    config = blob(encode(BundleConfig(name, "1", "llama", "", 16, 1, 16, Fit(0, 0))), CONFIG_TYPE)
    for number, (title, data) in enumerate(model.items()):
        kind = WEIGHT_CONFIG_TYPE if number else WEIGHT_TYPE
        layers.append(blob(data, kind, **{TITLE: title}))
    here: dict[str, str] = {PLATFORM: HERE, PYTHON: MINOR}
    notes: dict[str, str]
    for files, kind, notes in ((agent, AGENT_TYPE, {}), (runtime, RUNTIME_TYPE, here)):
        plain = plain_tar(files.items())
        tar = b"".join(compress(plain))
        layers.append(blob(tar, kind, **notes, **{UNPACKED: str(len(plain))}))
        trees[layers[-1].digest.hex] = files
    manifest = encode(Manifest(2, MANIFEST_TYPE, BUNDLE_TYPE, config, layers))
    return Bundle(Digest.of(manifest), manifest, blobs, model, trees)
