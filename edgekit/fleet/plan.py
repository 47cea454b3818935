"""Decide what a push does to a device, before a byte moves. Pure."""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.manifest import BundleConfig, Descriptor, Manifest
from edgekit.errors import EdgekitError
from edgekit.fleet.facts import Facts

MIN_PYTHON = (3, 11)


def check_fit(facts: Facts, manifest: Manifest, config: BundleConfig) -> Descriptor:
    """The runtime layer for this device, if the release fits it.

    Raises:
        EdgekitError: Python, glibc, memory or rights are not enough; says which.
        VerificationError: the bundle has no runtime for it; names the flag.
    """
    if _version(facts.python) < MIN_PYTHON:
        raise EdgekitError(
            f"the device has Python {facts.python}",
            "the runtime's wheels need CPython 3.11 or newer",
        )
    runtime = manifest.runtime_for(facts.platform, facts.python)
    if not facts.glibc or _version(facts.glibc) < _version(config.fit.glibc):
        raise EdgekitError(
            f"the device has glibc {facts.glibc or 'none'}",
            f"the runtime's wheels need glibc {config.fit.glibc} or newer",
        )
    if facts.ram_bytes < config.fit.ram_bytes:
        raise EdgekitError(
            "the device has too little memory for this release",
            f"{config.fit.ram_bytes / 1e9:.1f} GB are needed at a context of "
            f"{config.context_length} tokens, it has {facts.ram_bytes / 1e9:.1f} GB",
            "pack it with a smaller --context",
        )
    if not facts.writable:
        raise EdgekitError(
            f"{facts.root} cannot be written on the device",
            next_step="set root= of the device in fleet.toml to a folder of its account",
        )
    return runtime


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


class Missing(msgspec.Struct, frozen=True):
    """A blob that the device lacks; `have` bytes of it came with an earlier transfer."""

    digest: str
    size: int
    have: int


class Offer(msgspec.Struct, frozen=True):
    """The device's answer to a manifest."""

    missing: list[Missing]

    @property
    def bytes_to_send(self) -> int:
        """What has to travel."""
        return sum(blob.size - blob.have for blob in self.missing)

    def in_order(self) -> list[tuple[Digest, Missing]]:
        """Small blobs first, so that an early end leaves most of them done."""
        ordered = sorted(self.missing, key=lambda blob: (blob.size, blob.digest))
        return [(Digest.parse(blob.digest), blob) for blob in ordered]
