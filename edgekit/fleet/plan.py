"""Decides whether a push fits a device, and what it sends, before a byte moves. Pure."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from edgekit.core.config import (
    FIRST_SETTINGS,
    AgentConfig,
    encode_agent_config,
    parse_agent_config,
    used_settings,
)
from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseAnswer
from edgekit.core.manifest import PLATFORM, PYTHON, BundleConfig, Descriptor, Manifest
from edgekit.core.room import DiskRoom
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.facts import DeviceFacts
from edgekit.fleet.hardware import ISA_FLAGS

MIN_PYTHON = (3, 11)


def check_fit(facts: DeviceFacts, manifest: Manifest, config: BundleConfig) -> Descriptor:
    """Check that a release fits a device, and return the runtime layer for it.

    Raises:
        EdgekitError: the device's Python, glibc, CPU, memory or rights do not suffice; says which.
        VerificationError: the bundle has no runtime for the device; names the flag that adds it.
    """
    check_python(facts.python)
    check_machine(facts)
    runtime = manifest.runtime_for(facts.platform, facts.python)
    if not facts.glibc or _version(facts.glibc) < _version(config.fit.glibc):
        raise EdgekitError(
            f"the device has glibc {facts.glibc or 'none'}",
            f"the runtime's wheels need glibc {config.fit.glibc} or newer",
            "use a newer release of the device's operating system",
        )
    check_isa(facts, runtime)
    if facts.ram_bytes < config.fit.ram_bytes:
        raise EdgekitError(
            "the device has too little memory for this release",
            f"{config.fit.ram_bytes / 1e9:.1f} GB are needed at a context of "
            f"{config.context_length} tokens, it has {facts.ram_bytes / 1e9:.1f} GB",
            "pack it with a smaller --context",
        )
    check_root(facts)
    return runtime


def check_machine(facts: DeviceFacts) -> None:
    """Check that there are runtimes for the device's Python; raises EdgekitError."""
    if facts.platform not in ISA_FLAGS:
        has = " and ".join(name.removeprefix("linux/") for name in ISA_FLAGS)
        raise EdgekitError(
            f"no runtime of edgekit runs on the device: its Python is one for {facts.machine}",
            f"onnxruntime has wheels for {has}, and for nothing of 32 bits",
            "install the 64-bit edition of its operating system (a kernel of 64 bits alone does "
            "not do), or name a 64-bit Python with python= in fleet.toml",
        )


def check_isa(facts: DeviceFacts, runtime: Descriptor) -> None:
    """Check that every CPU of the device has the instructions that a runtime needs.

    A device whose /proc/cpuinfo says nothing is asked by the import test when it stages.

    Raises:
        EdgekitError: names the flags that are lacking.
    """
    lacking = sorted(runtime.isa - set(facts.cpu_flags.split())) if facts.cpu_flags else []
    if lacking:
        raise EdgekitError(
            "the device's CPU cannot run this release's runtime",
            f"it lacks {', '.join(lacking)}, which the code of {runtime.title} needs",
            "use a device with a newer CPU: no runtime of edgekit does without",
        )


def check_root(facts: DeviceFacts) -> None:
    """Check that ROOT can be made and that its libraries can be loaded; raises EdgekitError."""
    problem = facts.problem
    if ":" in facts.root:
        problem = "a colon in it separates two folders for Python"
    if problem:
        raise EdgekitError(
            f"{facts.root} cannot be edgekit's folder on the device",
            problem,
            "set root= of the device in fleet.toml to another folder",
        )
    if facts.noexec:
        raise EdgekitError(
            f"{facts.root} is on a file system that is mounted noexec",
            f"the device cannot load the runtime's libraries from {facts.noexec}",
            "set root= of the device in fleet.toml to a folder on another file system, or mount "
            "this one with exec",
        )
    if not facts.writable:
        raise EdgekitError(
            f"{facts.root} cannot be written on the device",
            next_step="set root= of the device in fleet.toml to a folder of its account",
        )


def check_first_room(
    facts: DeviceFacts, manifest: Manifest, runtime: Descriptor, bootstrap_bytes: int
) -> None:
    """Check the free space before a first contact sends a byte; later the device's agent does.

    Raises:
        EdgekitError: the disk is too small; says how much is needed.
    """
    if facts.current or facts.bootstrap or facts.free_bytes is None:
        return  # blobs may be there from before
    layers = manifest.for_device(runtime.annotations[PLATFORM], runtime.annotations[PYTHON])
    room = DiskRoom(
        sum(layer.size for layer in layers),
        sum(layer.unpacked or 0 for layer in layers),
        facts.free_bytes,
        facts.disk_bytes,
        first_contact=2 * bootstrap_bytes,  # its tar, and what it unpacks
    )
    if room.lacking:
        raise room.refusal(facts.root, "free some space; nothing was sent")


def check_python(version: str) -> None:
    """Check the version of a device's Python, like `3.11`; raises EdgekitError for an old one."""
    if _version(version) < MIN_PYTHON:
        raise EdgekitError(
            f"the device has Python {version}",
            "the runtime's wheels need CPython 3.11 or newer",
            "install a newer python3 there, or name one with python= in fleet.toml",
        )


def check_settings(config: AgentConfig, facts: DeviceFacts, manifest: Manifest) -> None:
    """Check that both agents that read the new agent.toml know each of its keys.

    The device's present agent reads the file to activate the release; the bundle's agent then runs
    with it. A present agent whose bundle lists its settings ignores a key that it does not know
    (`parse_known_agent_config`). An older one refuses the whole file.

    Raises:
        UsageError: names the device and the keys.
    """
    used = used_settings(config)
    known = manifest.settings
    if unknown := _names(used, FIRST_SETTINGS if known is None else known):
        raise UsageError(
            f"{config.device}: the agent of this bundle does not know {unknown}",
            "it is older than this setting",
            "pack the model again, then push the new bundle",
        )
    if facts.current is None or needs_updater(facts, manifest):
        return  # a first contact brings the bundle's agent
    if (current := facts.current_manifest) is not None and current.settings is not None:
        return
    if unknown := _names(used, FIRST_SETTINGS):
        raise UsageError(
            f"{config.device}: the agent that the device has does not know {unknown}",
            "it is older than this setting, and it has to read it to activate the new release",
            f"push once without {unknown} in fleet.toml, then again with it",
        )


def updater_of(facts: DeviceFacts) -> int:
    """Which way of staging the agent of `current` has; 0 where it cannot be read."""
    manifest = facts.current_manifest
    return 0 if manifest is None else manifest.updater


def needs_updater(facts: DeviceFacts, manifest: Manifest) -> bool:
    """Whether the bundle's agent has to run the verbs of a push in place of the device's own."""
    return facts.current is None or updater_of(facts) < manifest.updater


def _names(used: frozenset[str], known: frozenset[str]) -> str:
    return ", ".join(sorted(used - known))


def config_bytes(config: AgentConfig, facts: DeviceFacts, release: Digest) -> bytes:
    """Encode the agent.toml to send, or take the device's own bytes when they mean the same.

    A device compares bytes, and an older controller wrote the defaults too. A push that changes no
    value must not restart the agent because of another spelling.
    """
    if facts.current == release:
        has = facts.config.encode()
        with suppress(UsageError):
            if parse_agent_config(has) == config:
                return has
    return encode_agent_config(config)


def is_as_told(config: AgentConfig, facts: DeviceFacts, release: Digest) -> bool:
    """Whether a device has a release as its current one, with this `agent.toml`."""
    told = config_bytes(config, facts, release)
    return facts.current == release and told == facts.config.encode()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


class Missing(msgspec.Struct, frozen=True):
    """A blob that the device lacks; it has `have` of its bytes from an earlier transfer."""

    digest: Digest
    size: int
    have: int


class TrialVerdict(msgspec.Struct, frozen=True):
    """What a device says of a release after its activation; times in seconds.

    `soak_seconds` is what it has yet to run without a crash, None if it is good; `silent_seconds`
    is for how long nobody answered, None if the device does not say it.
    """

    changed: bool
    state: str
    soak_seconds: float | None = None
    silent_seconds: float | None = None


class Offer(msgspec.Struct, frozen=True):
    """The device's answer to a manifest."""

    missing: list[Missing]
    warnings: list[str] = []  # e.g. that the metadata has lived more than half of its life
    lease: LeaseAnswer | None = None  # an older agent, or a controller without a wish, has none
    runs: TrialVerdict | None = None  # it runs the release already, as the push wants it

    @property
    def bytes_to_send(self) -> int:
        """The number of bytes that the push has to send."""
        return sum(blob.size - blob.have for blob in self.missing)

    def in_order(self) -> list[Missing]:
        """The blobs, small ones first: a transfer that breaks off has then finished most."""
        return sorted(self.missing, key=lambda blob: (blob.size, blob.digest))


class DryOffer(Offer, frozen=True, kw_only=True):
    """What a device would answer to a manifest.

    Attributes:
        room: what the release needs on its disk and what that has, with `collected` bytes more.
        collected: bytes that the device would collect first.
    """

    room: DiskRoom
    collected: int = 0


def estimate(
    facts: DeviceFacts, manifest: Manifest, runtime: Descriptor, bootstrap_bytes: int
) -> DryOffer:
    """What a device lacks that cannot be asked: all that the manifest of `current` does not list.

    Args:
        facts: of the device.
        manifest, runtime: of the release.
        bootstrap_bytes: of the tar of a first contact; 0 without one.
    """
    current = facts.current_manifest
    held = {each.digest for each in (current.config, *current.layers)} if current else set()
    layers = manifest.for_device(runtime.annotations[PLATFORM], runtime.annotations[PYTHON])
    lacking = {each.digest: each for each in layers if each.digest not in held}.values()
    room = DiskRoom(
        sum(layer.size for layer in lacking),
        sum(layer.unpacked or 0 for layer in lacking),
        facts.free_bytes or 0,
        facts.disk_bytes,
        first_contact=2 * bootstrap_bytes,
    )
    return DryOffer([Missing(each.digest, each.size, 0) for each in lacking], room=room)
