"""A bundle's manifest and config: strict bytes <-> values (OCI image manifest 1.1, ModelPack).

A bundle is an OCI manifest; the digest of its bytes is the release's name. Readers hash the stored
bytes first and parse them after that; nothing re-serialises a manifest on its way.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from edgekit.core.chat.sampling import Sampling
from edgekit.core.digest import Digest, decode_hook, encode_hook
from edgekit.core.reading import UNREADABLE
from edgekit.errors import VerificationError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
BUNDLE_TYPE = "application/vnd.edgekit.bundle.v1+json"
CONFIG_TYPE = "application/vnd.edgekit.bundle.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
AGENT_TYPE = "application/vnd.edgekit.agent.v1.tar+zstd"
RUNTIME_TYPE = "application/vnd.edgekit.runtime.v1.tar+zstd"
GOLDEN_TYPE = "application/vnd.edgekit.golden.v1+json"
DOCS_TYPE = "application/vnd.edgekit.docs.v1+tar+zstd"  # for auditors; devices do not fetch it

TITLE = "org.opencontainers.image.title"
PLATFORM = "org.edgekit.platform"
PYTHON = "org.edgekit.python"
UNPACKED = "org.edgekit.unpacked-bytes"  # of a tar layer: its size on a device's disk
SETTINGS = "org.edgekit.settings"  # of the agent layer: the keys of agent.toml that it knows
UPDATER = "org.edgekit.updater"  # of the agent layer: which way of staging it has; none: the first
ISA = "org.edgekit.isa"  # of a runtime layer: flags of /proc/cpuinfo that its code needs
GATE = "org.edgekit.gate"  # of a bundle: `passed` or `ungated`

MAX_MANIFEST_BYTES = 1 << 20
_BYTES = re.compile(r"[0-9]{1,15}\Z", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


def oci_platform(machine: str) -> str:
    """The OCI platform of a Linux machine, e.g. `linux/arm64` for uname's `aarch64`."""
    return "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An OCI content descriptor: the digest, media type and size (bytes) of some content."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = {}

    @property
    def title(self) -> str:
        """The layer's file name; a model file keeps it on the device."""
        return self.annotations.get(TITLE, "")

    @property
    def unpacked(self) -> int | None:
        """The bytes of a tar layer's tar; None if it does not say."""
        text = self.annotations.get(UNPACKED)
        return None if text is None else int(text)

    @property
    def isa(self) -> frozenset[str]:
        """Of a runtime layer: CPU flags that its code needs, as /proc/cpuinfo spells them."""
        return frozenset(self.annotations.get(ISA, "").split(",")) - {""}


class Manifest(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An edgekit bundle as an OCI image manifest."""

    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: list[Descriptor]
    annotations: dict[str, str] = {}

    @property
    def model_files(self) -> list[Descriptor]:
        """Weights, graph, configuration and tokenizer: the model folder, file by file."""
        return [d for d in self.layers if d.media_type in (WEIGHT_TYPE, WEIGHT_CONFIG_TYPE)]

    @property
    def agent(self) -> Descriptor:
        """The agent layer."""
        return next(d for d in self.layers if d.media_type == AGENT_TYPE)

    @property
    def settings(self) -> frozenset[str] | None:
        """The keys of agent.toml that the agent knows; None for a bundle too old to list them."""
        text = self.agent.annotations.get(SETTINGS)
        return None if text is None else frozenset(text.split(","))

    @property
    def updater(self) -> int:
        """Which way of staging the agent has; 0: the first, which knows no signed metadata."""
        text = self.agent.annotations.get(UPDATER, "")
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def runtimes(self) -> list[Descriptor]:
        """One runtime layer per (platform, CPython minor)."""
        return [d for d in self.layers if d.media_type == RUNTIME_TYPE]

    @property
    def golden(self) -> Descriptor | None:
        """What a trial asks of the model, if the bundle has it."""
        return next((d for d in self.layers if d.media_type == GOLDEN_TYPE), None)

    @property
    def docs(self) -> Descriptor | None:
        """Gate report, provenance, SBOM and licence, if the bundle has them."""
        return next((d for d in self.layers if d.media_type == DOCS_TYPE), None)

    def runtime_for(self, platform: str, python: str) -> Descriptor:
        """Find the runtime layer for a device.

        Args:
            platform: OCI platform, e.g. `linux/arm64`.
            python: CPython minor, e.g. `3.11`.

        Raises:
            VerificationError: the bundle has none; the error names the flag that adds it.
        """
        for layer in self.runtimes:
            if (layer.annotations[PLATFORM], layer.annotations[PYTHON]) == (platform, python):
                return layer
        has = ", ".join(f"{d.annotations[PLATFORM]}:{d.annotations[PYTHON]}" for d in self.runtimes)
        raise VerificationError(
            f"the bundle has no runtime for {platform} with CPython {python}",
            f"it was packed for {has}",
            f"pack it again with --runtime {platform}:{python}",
        )

    def for_device(self, platform: str, python: str) -> list[Descriptor]:
        """The blobs that one device fetches: all but the docs and the other runtimes."""
        runtime = self.runtime_for(platform, python)
        kinds = (RUNTIME_TYPE, DOCS_TYPE)
        kept = [d for d in self.layers if d.media_type not in kinds or d is runtime]
        return [self.config, *kept]


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle's demands on a device, sizes in bytes; a push checks them before it sends a byte."""

    ram_bytes: int
    disk_bytes: int
    glibc: str = "2.28"  # the wheels of onnxruntime-genai are manylinux_2_28


class BundleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle's config blob: the release's identity, and the caps that a device applies to it."""

    name: str
    version: str
    model_type: str
    build_id: str
    context_length: int  # tokens of prompt and answer together; it bounds the KV memory
    kv_bytes_per_token: int
    max_answer_tokens: int
    fit: Fit
    search: dict[str, Any] = {}  # sampling defaults under the field names of chat completions


_T = TypeVar("_T")


def _decode(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=decode_hook)
    except UNREADABLE as error:
        raise VerificationError(f"the {what} cannot be read", str(error)) from error


def encode(value: Manifest | BundleConfig) -> bytes:
    """Encode as canonical JSON: keys are sorted, and equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted", enc_hook=encode_hook)


def parse_config(data: bytes) -> BundleConfig:
    """Decode a bundle's config; raises VerificationError when the bytes are none."""
    config = _decode(data, BundleConfig, "bundle's config")
    try:
        msgspec.convert(config.search, Sampling)
    except msgspec.ValidationError as error:
        raise VerificationError(
            "the bundle's sampling defaults are not usable", str(error)
        ) from error
    return config


def parse_manifest(data: bytes) -> Manifest:
    """Decode a bundle's manifest and check everything that later steps rely on.

    Raises:
        VerificationError: the bytes are no bundle, a digest is malformed, or a file name could lead
            out of its folder.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise VerificationError("the manifest is too large", f"{len(data)} bytes")
    manifest = _decode(data, Manifest, "manifest")
    if manifest.media_type != MANIFEST_TYPE or manifest.artifact_type != BUNDLE_TYPE:
        raise VerificationError("the manifest is not an edgekit bundle", manifest.artifact_type)
    for descriptor in (manifest.config, *manifest.layers):
        if descriptor.size < 0:
            raise VerificationError("a layer has a negative size", descriptor.digest)
        if not _BYTES.match(descriptor.annotations.get(UNPACKED, "0")):
            raise VerificationError("a layer's unpacked size is no number", descriptor.digest)
    titles = [d.title for d in manifest.model_files]
    for title in titles:
        if not _FILE_NAME.match(title) or titles.count(title) > 1:
            raise VerificationError(f"{title!r} is not usable as a model file's name")
    for layer in manifest.runtimes:
        if not {PLATFORM, PYTHON} <= layer.annotations.keys():
            raise VerificationError("a runtime layer does not say for which platform it is")
    if sum(d.media_type == AGENT_TYPE for d in manifest.layers) != 1:
        raise VerificationError("a bundle carries exactly one agent layer")
    if sum(d.media_type == DOCS_TYPE for d in manifest.layers) > 1:
        raise VerificationError("a bundle carries at most one docs layer")
    if sum(d.media_type == GOLDEN_TYPE for d in manifest.layers) > 1:
        raise VerificationError("a bundle carries at most one layer of golden prompts")
    return manifest
