"""Performs a push to one device: probe, check, transfer, stage, activate."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest
from edgekit.core.manifest import Descriptor, parse_config
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.facts import PROBE, Facts, parse_facts
from edgekit.fleet.inventory import Device
from edgekit.fleet.plan import Offer, check_fit
from edgekit.fleet.remote import LocalRemote, Remote, SshRemote
from edgekit.store import BlobStore
from edgekit.trust import PinnedManifest

STAGE_SECONDS = 1800.0  # hashing and unpacking from a slow SD card
ACTIVATE_SECONDS = 300.0  # drain of the old, trial of the new and, if need be, the old again
ADOPT_SECONDS = 600.0


class Event(msgspec.Struct, frozen=True):
    """Progress of a push: which step, and bytes sent of all bytes to send."""

    step: str
    sent: int = 0
    total: int = 0


Report = Callable[[Event], None]


class Pushed(msgspec.Struct, frozen=True):
    """What a push did."""

    device: str
    release: str
    changed: bool
    blobs_sent: int
    bytes_sent: int
    transfer_seconds: float
    seconds: float


def connect(device: Device) -> Remote:
    """Reach a device.

    Raises:
        UnreachableError: nobody answers.
        VerificationError: its host key is unknown or another one.
        EdgekitError: it does not accept our key.
    """
    kind, _, rest = device.address.partition(":")
    return LocalRemote() if kind == "local" else SshRemote(rest)


class DeviceDriver:
    """Runs the agent's verbs on one device.

    Args:
        name: of the device.
        device: its entry in `fleet.toml`.
        remote: the way to it.
        root: ROOT on the device; empty for the default of its account.
    """

    def __init__(self, name: str, device: Device, remote: Remote, root: str) -> None:
        self.name = name
        self._remote = remote
        self._device = device
        self._root = root
        self.facts = self._probe()

    def _probe(self) -> Facts:
        argv = commands.probe(self._device.python, self._root)
        done = self._remote.run(argv, PROBE.read_bytes())
        if done.code != 0:
            raise EdgekitError(
                f"{self.name}: {self._device.python} does not run there",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "install python3 (3.11 or newer) on the device, or set python= in fleet.toml",
            )
        return parse_facts(done.stdout)

    def call(self, *arguments: str, stdin: bytes = b"", seconds: float = 60.0) -> dict[str, Any]:
        """Run a verb of the device's agent.

        Raises:
            EdgekitError: what the device reports, as the kind of error it is there.
        """
        argv = commands.agent(self.facts, *arguments)
        done = self._remote.run(argv, stdin, seconds)
        try:
            answer: dict[str, Any] = msgspec.json.decode(done.stdout)
        except msgspec.MsgspecError:
            raise EdgekitError(
                f"{self.name}: `agent {arguments[0]}` ended with {done.code}",
                done.stderr.decode("utf-8", "replace").strip()[-500:],
            ) from None
        if done.code != 0:
            kinds: tuple[type[EdgekitError], ...] = (VerificationError, UsageError, EdgekitError)
            kind = next(k for k in kinds if k.exit_code == done.code or k is EdgekitError)
            raise kind(f"{self.name}: {answer['what']}", answer["why"], answer["next"])
        return answer

    def has_agent(self) -> bool:
        """Whether a release or a bootstrap can run verbs there."""
        return bool(self.facts.current or self.facts.bootstrap)

    def bootstrap(self, name: str, tar: bytes) -> None:
        """First contact: give the device enough of the agent to stage with."""
        argv = commands.receive_bootstrap(self.facts.root, name)
        done = self._remote.run(argv, tar, seconds=ADOPT_SECONDS)
        if done.code != 0:
            raise EdgekitError(
                f"{self.name}: first contact failed",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "the device needs sh, tar and python3, and a writable root",
            )
        self.facts = self._probe()

    def send(self, offer: Offer, store: BlobStore, report: Report) -> int:
        """Transfer the missing blobs; each is hashed by the device and published there.

        Returns:
            Bytes sent.
        """
        sent, total = 0, offer.bytes_to_send

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            report(Event("transfer", sent, total))

        for digest, blob in offer.in_order():
            target = commands.part_path(self.facts, digest.hex)
            self._remote.append(store.path(digest), target, blob.have, progress)
            self.call("stage", digest, "--adopt", str(blob.size), seconds=ADOPT_SECONDS)
        return sent


def push(
    driver: DeviceDriver,
    pinned: PinnedManifest,
    store: BlobStore,
    config: AgentConfig,
    make_bootstrap: Callable[[Descriptor], tuple[str, bytes]],
    report: Report,
) -> Pushed:
    """Stage and activate a release on one device.

    Args:
        driver: of the device.
        pinned: the release.
        store: the controller's store, which has its blobs.
        config: the device's `agent.toml`.
        make_bootstrap: name and tar of the first contact for a runtime layer.
        report: called with progress.

    Raises:
        EdgekitError: and its kinds; the device then runs what it ran before.
    """
    began = time.monotonic()
    bundle = parse_config(store.read(Digest.parse(pinned.manifest.config.digest)))
    runtime = check_fit(driver.facts, pinned.manifest, bundle)
    if not driver.facts.current:
        name, tar = make_bootstrap(runtime)
        if driver.facts.bootstrap != f"bootstrap-{name}":
            report(Event("first contact"))
            driver.bootstrap(name, tar)
    report(Event("compare"))
    answer = driver.call("stage", pinned.digest, "--offer", stdin=pinned.data)
    offer = msgspec.convert(answer, Offer)
    transfer_began = time.monotonic()
    try:
        sent = driver.send(offer, store, report)
    except VerificationError:
        # A transfer that was continued over a damaged part: the device has dropped it.
        offer = msgspec.convert(
            driver.call("stage", pinned.digest, "--offer", stdin=pinned.data), Offer
        )
        sent = driver.send(offer, store, report)
    transfer_seconds = time.monotonic() - transfer_began
    report(Event("stage"))
    driver.call("stage", pinned.digest, seconds=STAGE_SECONDS)
    report(Event("activate"))
    verdict = driver.call(
        *("activate", pinned.digest, "--config", "-"),
        stdin=msgspec.toml.encode(config),
        seconds=ACTIVATE_SECONDS,
    )
    return Pushed(
        device=driver.name,
        release=pinned.digest,
        changed=bool(verdict["changed"]),
        blobs_sent=len(offer.missing),
        bytes_sent=sent,
        transfer_seconds=transfer_seconds,
        seconds=time.monotonic() - began,
    )


def default_root(device: Device, local_folder: Path | None) -> str:
    """ROOT on the device: from `fleet.toml`, for a local device its folder, else the default."""
    return device.root or (str(local_folder) if local_folder else "")


__all__ = ["DeviceDriver", "Event", "Pushed", "UnreachableError", "connect", "default_root", "push"]
