"""The way to the account that enrolls: its address, its host key, its connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.errors import EdgekitError, UsageError, VerificationError
from edgekit.fleet.enroll.pin import pin, unpin
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.ssh.destination import parse_destination
from edgekit.fleet.ssh.hostkeys import fingerprint
from edgekit.fleet.ssh.trust import UnknownHostKeyError


@dataclass(frozen=True)
class HostKeyAsked:
    """Which unknown host key to pin: one of a fingerprint, any, or what a person confirms."""

    fingerprint: str = ""
    accept_new: bool = False
    confirm: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        if self.fingerprint and not self.fingerprint.startswith("SHA256:"):
            raise UsageError(
                f"{self.fingerprint!r} is no fingerprint of a host key",
                "it begins with SHA256:",
                "run `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device",
            )


@dataclass(frozen=True)
class Arrived:
    """A connection, the fingerprint of the host key, and the line that pinned it."""

    remote: SshRemote
    fingerprint: str
    pinned: tuple[str, str] | None = None


def account_of(address: str) -> str:
    """The account that an address of fleet.toml names; empty: as ~/.ssh/config says."""
    return parse_destination(address.removeprefix("ssh:")).user


def with_account(address: str, account: str) -> str:
    """An address of fleet.toml with another account."""
    text = address.removeprefix("ssh:")
    start = "ssh:"
    if text.startswith("//"):
        start, text = "ssh://", text[2:]
    return f"{start}{account}@{text.rpartition('@')[2]}"


def arrive(address: str, python: str, asked: HostKeyAsked, *, keep: bool = True) -> Arrived:
    """Connect, and pin the host key first where it is unknown and asked for.

    Args:
        address: of fleet.toml.
        python: the device's Python.
        asked: which unknown key to take.
        keep: whether a pin outlives the login; not for a dry run.

    Raises:
        VerificationError: the key is unknown and not confirmed, is not the one that was named, has
            changed or is revoked.
        UnreachableError: the device does not answer.
        EdgekitError: it does not let us in, or the key cannot be written down.
    """
    destination = address.removeprefix("ssh:")
    try:
        remote = SshRemote(destination, python)
    except UnknownHostKeyError as unknown:
        shown = fingerprint(unknown.blob)
        if unknown.settings.named != parse_destination(destination).host:
            raise  # of a jump host: nobody was asked about that one
        _check(unknown, shown, asked)
        path, line = pin(unknown)
        try:
            remote = SshRemote(destination, python)
        finally:
            if not keep:
                unpin(path, line)
        return Arrived(remote, shown, (str(path), line) if keep else None)
    shown = fingerprint(remote.host_key)
    if asked.fingerprint and shown != asked.fingerprint:
        remote.close()
        raise _other(shown, asked)
    return Arrived(remote, shown)


def why_not_let_in(address: str, python: str) -> str:
    """Why an account does not let us in; empty if it does. sshd may allow some accounts only."""
    try:
        SshRemote(address.removeprefix("ssh:"), python).close()
    except EdgekitError as error:
        return f"{error.what}: {error.why}"
    return ""


def _check(unknown: UnknownHostKeyError, shown: str, asked: HostKeyAsked) -> None:
    """Whether an unknown key may be pinned."""
    if asked.fingerprint:
        if shown != asked.fingerprint:
            raise _other(shown, asked)
        return
    if asked.accept_new:
        return
    name = unknown.settings.known_as
    question = f"{name} shows the host key {unknown.kind} {shown}. Is this the device's?"
    if asked.confirm is not None and asked.confirm(question):
        return
    raise VerificationError(
        unknown.what,
        unknown.why,
        f"compare it with `ssh-keygen -lf` on the device, then give `--host-key {shown}`",
    )


def _other(shown: str, asked: HostKeyAsked) -> VerificationError:
    return VerificationError(
        "the device shows another host key than the one that was named",
        f"it shows {shown}, named is {asked.fingerprint}",
        "do not go on: another machine may answer at this address",
    )
