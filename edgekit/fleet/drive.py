"""Performs a push to one device: probe, check, transfer, stage, activate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.config import AgentConfig
from edgekit.core.digest import Digest, decode_hook
from edgekit.core.manifest import Descriptor, parse_config
from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.facts import PROBE, RECEIVE, DeviceFacts, parse_facts
from edgekit.fleet.inventory import Device
from edgekit.fleet.plan import Missing, Offer, check_fit, check_settings, config_bytes
from edgekit.fleet.remote import LocalRemote, Remote, SshRemote
from edgekit.store import BlobStore
from edgekit.trust import PinnedManifest

STAGE_SECONDS = 1800.0  # hashing and unpacking from a slow SD card
ACTIVATE_SECONDS = 300.0  # drain of the old and, if need be, the old again; the trial comes on top
ADOPT_SECONDS = 600.0
ROUNDS = 2  # of transfer and verification: what is found damaged is dropped there and sent anew


class Event(msgspec.Struct, frozen=True):
    """Progress of a push: which step, and bytes sent of all bytes to send."""

    step: str
    sent: int = 0
    total: int = 0


Report = Callable[[Event], None]


class NoAgentError(EdgekitError):
    """The agent there does not run: its answer is none of an agent."""


class OwnStoreError(VerificationError):
    """The damage is in the controller's store: sending it again is no use."""


class Pushed(msgspec.Struct, frozen=True):
    """What a push did."""

    device: str
    release: Digest
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
        self._tree = commands.Tree.RELEASE if self.facts.current else commands.Tree.BOOTSTRAP

    def _probe(self) -> DeviceFacts:
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
        argv = commands.agent(self.facts, self._tree, *arguments)
        done = self._remote.run(argv, stdin, seconds)
        try:
            answer: dict[str, Any] = msgspec.json.decode(done.stdout)
        except msgspec.MsgspecError:
            raise NoAgentError(
                f"{self.name}: `agent {arguments[0]}` ended with {done.code}",
                done.stderr.decode("utf-8", "replace").strip()[-500:],
                "push again: a push brings an agent of its own",
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
        """First contact: give the device enough of the agent to stage with.

        From here on that agent runs the verbs, also where a release is.
        """
        argv = commands.receive_bootstrap(self.facts, RECEIVE.read_text("utf-8"), name)
        done = self._remote.run(argv, tar, seconds=ADOPT_SECONDS)
        if done.code != 0:
            raise EdgekitError(
                f"{self.name}: first contact failed",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "the device needs a shell, python3 and a writable root",
            )
        self.facts = self._probe()
        self._tree = commands.Tree.BOOTSTRAP

    def offer(self, pinned: PinnedManifest) -> Offer:
        """Give the device a manifest; what it lacks.

        Raises:
            NoAgentError: its agent does not run.
            EdgekitError: its disk is too small, or another push is at work.
        """
        answer = self.call("stage", pinned.digest, "--offer", stdin=pinned.data)
        return msgspec.convert(answer, Offer, dec_hook=decode_hook)

    def send(self, offer: Offer, store: BlobStore, report: Report) -> int:
        """Transfer the missing blobs; each is hashed by the device and published there.

        Returns:
            Bytes sent.

        Raises:
            VerificationError: what arrived is not the blob; the device has dropped it.
        """
        sent, total = 0, offer.bytes_to_send

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            report(Event("transfer", sent, total))

        for blob in offer.in_order():
            if not store.has(blob.digest, blob.size):
                raise OwnStoreError(
                    f"blob {blob.digest.short} is missing from this project's own store",
                    next_step="pack the model again",
                )
            try:
                self._send_blob(store, blob, blob.have, progress)
            except VerificationError:
                _check_own(store, blob.digest)
                if not blob.have:
                    raise
                # What an earlier transfer had left was damaged.
                self._send_blob(store, blob, 0, progress)
        return sent

    def _send_blob(
        self, store: BlobStore, blob: Missing, offset: int, progress: Callable[[int], None]
    ) -> None:
        target = commands.part_path(self.facts, blob.digest)
        self._remote.append(store.path(blob.digest), target, offset, progress)
        self.call("stage", blob.digest, "--adopt", str(blob.size), seconds=ADOPT_SECONDS)


def _check_own(store: BlobStore, digest: Digest) -> None:
    """Raises: OwnStoreError when it is the controller's own blob that is damaged."""
    try:
        store.verify(digest)
    except VerificationError as error:
        raise OwnStoreError(
            f"{error.what}, in this project's own store",
            error.why,
            "pack the model again; the device has not used it",
        ) from None


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
    bundle = parse_config(store.read(pinned.manifest.config.digest))
    runtime = check_fit(driver.facts, pinned.manifest, bundle)
    check_settings(config, driver.facts, pinned.manifest)

    def first_contact() -> None:
        for layer in (pinned.manifest.agent, runtime):
            _check_own(store, layer.digest)  # it becomes code that runs there
        report(Event("first contact"))
        driver.bootstrap(*make_bootstrap(runtime))

    if not driver.facts.current:
        first_contact()
    report(Event("compare"))
    try:
        offer = driver.offer(pinned)
    except NoAgentError:
        first_contact()
        offer = driver.offer(pinned)
    sent = _fill(driver, pinned, offer, store, report)
    report(Event("activate"))
    verdict = driver.call(
        *("activate", pinned.digest, "--config", "-"),
        stdin=config_bytes(config, driver.facts, pinned.digest),
        seconds=ACTIVATE_SECONDS + config.trial_seconds,
    )
    return Pushed(
        device=driver.name,
        release=pinned.digest,
        changed=bool(verdict["changed"]),
        blobs_sent=sent.blobs,
        bytes_sent=sent.bytes,
        transfer_seconds=sent.seconds,
        seconds=time.monotonic() - began,
    )


@dataclass
class _Sent:
    blobs: int = 0
    bytes: int = 0
    seconds: float = 0.0


def _fill(
    driver: DeviceDriver, pinned: PinnedManifest, offer: Offer, store: BlobStore, report: Report
) -> _Sent:
    """Transfer and stage until every blob verifies there, at most `ROUNDS` times."""
    sent = _Sent()
    for left in reversed(range(ROUNDS)):
        began = time.monotonic()
        try:
            sent.bytes += driver.send(offer, store, report)
            sent.blobs += len(offer.missing)
            sent.seconds += time.monotonic() - began
            report(Event("stage"))
            driver.call("stage", pinned.digest, seconds=STAGE_SECONDS)
            break
        except OwnStoreError:
            raise
        except VerificationError:
            if not left:
                raise
            offer = driver.offer(pinned)
    return sent


def default_root(device: Device, local_folder: Path | None) -> str:
    """ROOT on the device: from `fleet.toml`, for a local device its folder, else the default."""
    return device.root or (str(local_folder) if local_folder else "")
