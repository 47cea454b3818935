"""One device: its connection, its facts, and the verbs of its agent."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.digest import Digest, decode_hook
from edgekit.core.lease import LeaseAnswer, LeaseWish
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet import commands
from edgekit.fleet.facts import PROBE, RECEIVE, DeviceFacts, clock_offset, parse_facts
from edgekit.fleet.held import LeaseHeldError
from edgekit.fleet.inventory import Device, Fleet, local_folder
from edgekit.fleet.link.local import LocalRemote, Remote
from edgekit.fleet.plan import DryOffer, Missing, Offer, updater_of
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.values import WantedBlob, batches
from edgekit.store import BlobStore
from edgekit.trust.pinned import PinnedManifest
from edgekit.trust.signed import Metadata, Offered

ACTIVATE_SECONDS = 300.0  # the old release drains and perhaps starts again; the trial comes on top
ADOPT_SECONDS = 600.0
OFFER_SECONDS = 60.0
CONFIRM_SECONDS = 1800.0  # it hashes the whole release
ROUNDS = 2  # of transfer and verification: the device drops damaged blobs, the next sends them


class Event(msgspec.Struct, frozen=True):
    """Progress of a push: its step, and how many of all bytes are sent."""

    step: str
    sent: int = 0
    total: int = 0


Report = Callable[[Event], None]


class NoAgentError(EdgekitError):
    """The device's agent does not run: the output is not that of an agent."""


class OwnStoreError(VerificationError):
    """The controller's own store is damaged: another transfer cannot help."""


class _There(msgspec.Struct, frozen=True):
    """What `receive.py` prints: bytes of a first contact's tar, and whether it is unpacked."""

    have: int
    unpacked: bool


def connect(device: Device, cap: Cap | None = None) -> Remote:
    """Connect to a device; `cap` says how fast bytes may leave for it.

    Raises:
        UsageError: the address or the ssh configuration cannot be read or honoured.
        UnreachableError: the device does not answer.
        VerificationError: its host key is unknown, has changed or is revoked.
        EdgekitError: it does not accept our SSH key.
    """
    if device.pulls:
        raise UnreachableError(
            "nobody connects to a device that pulls",
            "its address in fleet.toml is pull:",
            "`edgekit push` tells it what to run; `edgekit status` and `edgekit devices` show it",
        )
    kind, _, rest = device.address.partition(":")
    if kind == "local":
        return LocalRemote()
    from edgekit.fleet.link.remote import SshRemote  # noqa: PLC0415  imports paramiko, which takes long

    return SshRemote(rest, device.python, cap)


class DeviceDriver:
    """Runs the agent's verbs on one device.

    Args:
        name: the device's name.
        device: its entry in `fleet.toml`.
        remote: the connection to it.
        root: ROOT on the device; empty for the default of its account.

    Attributes:
        facts: what the probe found.
        slower: why the last transfer took a slower way than a pull; empty if it did not.
    """

    def __init__(self, name: str, device: Device, remote: Remote, root: str) -> None:
        self.name = name
        self._remote = remote
        self._device = device
        self._root = root
        self.leased = False  # by this connection
        self.slower = ""
        self.facts = self._probe()
        self._tree = commands.Tree.RELEASE if self.facts.current else commands.Tree.BOOTSTRAP

    def _probe(self) -> DeviceFacts:
        argv = commands.probe(self._device.python, self._root)
        done = self._remote.run(argv, PROBE.read_bytes())
        if done.code == VerificationError.exit_code:
            raise _refused(self.name, done.stdout)
        if done.code != 0:
            raise EdgekitError(
                f"{self.name}: {self._device.python} does not run on the device",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "install python3 (3.11 or newer) on the device, or set python= in fleet.toml",
            )
        return parse_facts(done.stdout)

    def clock(self) -> tuple[float, float] | None:
        """By how much the device's clock is ahead of ours, and how far that can be wrong.

        In seconds; None: its own probe is of before that. The probe runs a second time: the first
        run waits for the login, too.
        """
        asked = time.time()
        told = self._probe().clock
        return None if told is None else clock_offset(told, asked, time.time())

    def call(self, *arguments: str, stdin: bytes = b"", seconds: float = 60.0) -> dict[str, Any]:
        """Run a verb of the device's agent.

        Raises:
            EdgekitError: the error that the device reports, as the same kind of error.
        """
        argv = commands.agent(self.facts, self._tree, *arguments)
        done = self._remote.run(argv, stdin, seconds)
        try:
            answer = msgspec.json.decode(done.stdout, type=dict[str, Any])
        except UNREADABLE:
            raise NoAgentError(
                f"{self.name}: `agent {arguments[0]}` ended with {done.code}",
                done.stderr.decode("utf-8", "replace").strip()[-500:],
                f"run `edgekit push {self.name}`: a push brings an agent of its own",
            ) from None
        if done.code != 0:
            kinds: tuple[type[EdgekitError], ...] = (VerificationError, UsageError, EdgekitError)
            kind = next(k for k in kinds if k.exit_code == done.code or k is EdgekitError)
            told = (str(answer.get(name) or "") for name in ("why", "next"))
            raise kind(f"{self.name}: {answer.get('what')}", *told)
        return answer

    def script(self, text: bytes, *words: str, seconds: float) -> commands.CommandResult:
        """Run a script with the device's Python, which needs no agent; it gets ROOT and `words`."""
        return self._remote.run((self._device.python, "-", self.facts.root, *words), text, seconds)

    def close(self) -> None:
        """Close the connection; a verb that runs ends, or goes on without us."""
        self._remote.close()

    def has_agent(self) -> bool:
        """Whether the device has a release or a bootstrap, either of which can run verbs."""
        return bool(self.facts.current or self.facts.bootstrap)

    def bootstrap(self, name: str, tar: bytes, report: Report) -> None:
        """Make the first contact: send the part of the agent that can stage a release.

        A first contact that broke off is resumed. After this the bootstrap's agent runs the verbs,
        even where the device has a release.

        Raises:
            EdgekitError: the device cannot store or unpack it.
        """
        with tempfile.NamedTemporaryFile(prefix="edgekit-bootstrap-") as file:
            file.write(tar)
            file.flush()
            there = self._receive(name, len(tar))
            for _ in range(ROUNDS):  # the second is for a damaged tar
                if there.unpacked:
                    break
                self._send_bootstrap(Path(file.name), name, there.have, report)
                there = self._receive(name, len(tar))
        if not there.unpacked:
            raise VerificationError(
                f"{self.name}: first contact failed",
                "the bytes that arrived twice are not those that were sent",
                "check the disk and the memory of the device, then push again",
            )
        self.facts = self._probe()
        self._tree = commands.Tree.BOOTSTRAP

    def _receive(self, name: str, size: int) -> _There:
        script = RECEIVE.read_text("utf-8")
        argv = commands.receive_bootstrap(self.facts, script, name, size)
        done = self._remote.run(argv, seconds=ADOPT_SECONDS)
        if done.code == VerificationError.exit_code:
            raise _refused(self.name, done.stdout)
        if done.code != 0:
            raise EdgekitError(
                f"{self.name}: first contact failed",
                done.stderr.decode("utf-8", "replace").strip()[-300:],
                "check the free space and the rights of its root there; then push again",
            )
        return msgspec.json.decode(done.stdout, type=_There)

    def _send_bootstrap(self, tar: Path, name: str, have: int, report: Report) -> None:
        sent, total = 0, tar.stat().st_size - have

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            report(Event("first contact", sent, total))

        self._remote.append(tar, commands.bootstrap_part(self.facts, name), have, progress)

    def _verb_updater(self, pinned: PinnedManifest) -> int:
        """Which way of staging the agent has that runs the verbs: its own, or the bundle's."""
        if self._tree is commands.Tree.RELEASE:
            return updater_of(self.facts)
        return pinned.manifest.updater

    def take_lease(self, wish: LeaseWish) -> None:
        """Take the device for this connection; an agent from before leases has none to take.

        Raises:
            LeaseHeldError: another one holds it, or took it over.
        """
        words = ["--take", wish.id, "--holder", wish.holder, "--about", wish.about]
        words += ["--seconds", str(math.ceil(wish.seconds))]
        try:
            told = self.call("lease", *words, *(("--take-over",) if wish.take_over else ()))
        except NoAgentError:
            return
        except VerificationError as error:
            if error.why.endswith("is no verb of a push"):  # an older door
                return
            raise
        self._leased(msgspec.convert(told, LeaseAnswer))

    def give_lease(self, own: str) -> None:
        """Give the lease back if the project `own` has it."""
        self.call("lease", "--give", own)
        self.leased = False

    def _leased(self, answer: LeaseAnswer) -> None:
        if not answer.taken:
            raise LeaseHeldError(self.name, answer, time.time())
        self.leased = True

    def offer(
        self,
        pinned: PinnedManifest,
        metadata: Metadata | None,
        lease: LeaseWish | None = None,
        same_config: bytes = b"",
    ) -> Offer:
        """Send a manifest and its metadata to the device, which says which blobs it lacks.

        `same_config` is the `agent.toml` that it has, where the push seems to change nothing.

        An agent of before signed metadata gets the manifest alone; one of before leases leaves the
        wish for its lease aside.

        Raises:
            LeaseHeldError: another one holds the device, or took it over.
            VerificationError: the device does not accept the metadata, or not this release.
            NoAgentError: its agent does not run.
            EdgekitError: its disk is too small, or another push is running.
        """
        data = pinned.data
        if self._verb_updater(pinned):
            offered = Offered(pinned.data.decode(), metadata, lease, same_config.decode())
            data = msgspec.json.encode(offered)
        seconds = CONFIRM_SECONDS if same_config else OFFER_SECONDS
        answer = self.call("stage", pinned.digest, "--offer", stdin=data, seconds=seconds)
        offer = msgspec.convert(answer, Offer, dec_hook=decode_hook)
        if offer.lease is not None:
            self._leased(offer.lease)
        return offer

    def dry_offer(self, pinned: PinnedManifest, metadata: Metadata | None) -> DryOffer | None:
        """Ask what the device would answer to an offer; nothing there is changed.

        Returns:
            None: its agent is of before that question.

        Raises:
            NoAgentError: its agent does not run.
            EdgekitError: as `offer`.
        """
        data = msgspec.json.encode(Offered(pinned.data.decode(), metadata))
        try:
            answer = self.call("stage", pinned.digest, "--offer", "--dry-run", stdin=data)
        except NoAgentError as error:
            if "--dry-run" not in error.why:  # what its parser says of a word that it does not know
                raise
            return None
        except VerificationError as error:
            if not (self.facts.door and "does not take these words" in error.why):
                raise
            return None
        return msgspec.convert(answer, DryOffer, dec_hook=decode_hook)

    def send(self, offer: Offer, store: BlobStore, report: Report) -> int:
        """Transfer the missing blobs; the device hashes each one and then publishes it.

        Returns the number of bytes sent.

        Raises:
            VerificationError: the received bytes are not the blob; the device has dropped them.
        """
        sent, total = 0, offer.bytes_to_send

        def progress(count: int) -> None:
            nonlocal sent
            sent += count
            report(Event("transfer", sent, total))

        wanted = [self._wanted(store, blob) for blob in offer.in_order()]
        flags = self.facts.cpu_flags.split()
        aes = not flags or "aes" in flags
        self.slower = ""
        for batch in batches(wanted):
            self.slower = self._remote.bring(batch, progress, aes=aes) or self.slower
            for blob in batch:
                try:
                    self._adopt(blob)
                except VerificationError:
                    check_own(store, blob.digest)
                    if not blob.have:
                        raise
                    # The part that an earlier transfer left was damaged.
                    self._remote.bring([replace(blob, have=0)], progress, aes=aes)
                    self._adopt(blob)
        return sent

    def _wanted(self, store: BlobStore, blob: Missing) -> WantedBlob:
        if not store.has(blob.digest, blob.size):
            raise OwnStoreError(
                f"blob {blob.digest.short} is missing from this project's own store",
                next_step="pack the model again",
            )
        target = commands.part_path(self.facts, blob.digest)
        return WantedBlob(blob.digest, store.path(blob.digest), target, blob.size, blob.have)

    def _adopt(self, blob: WantedBlob) -> None:
        self.call("stage", blob.digest, "--adopt", str(blob.size), seconds=ADOPT_SECONDS)


def _refused(name: str, told: bytes) -> EdgekitError:
    """The refusal of a device's door, which is no agent."""
    try:
        answer = msgspec.json.decode(told, type=dict[str, str])
        return VerificationError(f"{name}: {answer['what']}", answer["why"], answer["next"])
    except (*UNREADABLE, KeyError):
        return VerificationError(
            f"{name}: the device refuses this", told.decode("utf-8", "replace")
        )


def check_own(store: BlobStore, digest: Digest) -> None:
    """Check a blob of the controller's store; raises OwnStoreError when it is damaged."""
    try:
        store.verify(digest)
    except VerificationError as error:
        raise OwnStoreError(
            f"{error.what}, in this project's own store",
            error.why,
            "pack the model again; the device has not used it",
        ) from None


def default_root(device: Device, local_folder: Path | None) -> str:
    """ROOT on the device: as in `fleet.toml`, else a local device's folder, else the default."""
    return device.root or (str(local_folder) if local_folder else "")


def open_device(
    fleet: Fleet,
    name: str,
    cap: Cap | None = None,
    connected: Callable[[Remote], None] = lambda _: None,
) -> DeviceDriver:
    """Connect to a device of a fleet and probe it; raises what `connect` raises.

    `connected` gets the connection before anything runs over it.
    """
    device = fleet.devices[name]
    folder = local_folder(fleet, device) if device.address.startswith("local:") else None
    remote = connect(device, cap)
    connected(remote)
    try:
        return DeviceDriver(name, device, remote, default_root(device, folder))
    except BaseException:
        remote.close()
        raise
