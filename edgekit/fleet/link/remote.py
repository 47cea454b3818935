"""The connection to a device over SSH: run an argv, append to a file, bring blobs.

`edgekit.fleet.ssh` opens the connection with fabric and checks the host.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import paramiko

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.link.local import COMMAND_SECONDS, Progress, check_stored
from edgekit.fleet.link.session import RelaySession
from edgekit.fleet.ssh.connection import CONNECT_SECONDS, connection_to
from edgekit.fleet.ssh.destination import parse_destination
from edgekit.fleet.transfer.bring import Listen, NoPullError, pull
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.chacha import listening_by_openssh
from edgekit.fleet.transfer.reverse import listening, round_trip
from edgekit.fleet.transfer.values import LEAST_PULL_BYTES, WantedBlob

KEEPALIVE_SECONDS = 20


class SshRemote:
    """An `ssh:` device.

    Args:
        destination: what the user named.
        python: the device's Python.
        cap: how fast bytes may leave for it.

    Raises:
        UsageError: the destination or the ssh configuration cannot be read or honoured.
        UnreachableError: the device does not answer.
        VerificationError: its host key is unknown, has changed or is revoked.
        EdgekitError: it does not accept our SSH key.
    """

    def __init__(self, destination: str, python: str = "python3", cap: Cap | None = None) -> None:
        self._cap = cap or Cap()
        self._destination = destination
        self._python = python
        self._session: RelaySession | None = None
        self._refused: EdgekitError | None = None
        self._connection = connection_to(destination)
        self._connection.open()
        self._connection.transport.set_keepalive(KEEPALIVE_SECONDS)

    @property
    def public_key(self) -> str:
        """The line of authorized_keys that let us in; empty for a certificate."""
        return str(self._connection.public_key)

    @property
    def host_key(self) -> bytes:
        """The host's key in wire form."""
        return bytes(self._connection.transport.get_remote_server_key().asbytes())

    def run(
        self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> CommandResult:
        """Run a command by the relay; its words meet no shell."""
        return self._relay().run(argv, stdin, seconds)

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Append by the relay, without a round trip for each chunk."""

        def count(sent: int) -> None:
            self._cap.take(sent)
            progress(sent)

        try:
            stored = self._relay().append(source, target, offset, count)
        except UnreachableError as error:
            raise self._broke_off(error) from error
        check_stored(target, stored, source.stat().st_size)

    def bring(self, blobs: Sequence[WantedBlob], progress: Progress, *, aes: bool = True) -> str:
        """Let the device pull; where it cannot, append by the relay."""
        relay, why, left = self._relay(), "", list(blobs)
        lacking = sum(blob.lacking for blob in blobs)
        counted = 0

        def count(sent: int) -> None:
            nonlocal counted
            told = min(sent, lacking - counted)  # some bytes may leave twice
            counted += told
            progress(told)

        for listen in self._listeners(aes) if lacking >= LEAST_PULL_BYTES else ():
            try:
                pull(listen, relay.run, self._python, left, self._cap, count)
                why, left = "", []
                break
            except UnreachableError as error:
                raise self._broke_off(error) from error
            except NoPullError as error:
                why, left = str(error), error.left
        for blob in left:
            self.append(blob.source, blob.target, blob.have, count)
        return why

    def _listeners(self, aes: bool) -> list[Listen]:
        """How the device can reach us, the fastest first."""
        transport = self._connection.transport
        ours: list[Listen] = [partial(listening, transport)]
        if aes or not shutil.which("ssh"):
            return ours
        key = transport.get_remote_server_key()
        line = f"{key.get_name()} {key.get_base64()}"
        to = parse_destination(self._destination)
        return [partial(listening_by_openssh, to, line, round_trip(transport)), *ours]

    def _broke_off(self, error: UnreachableError) -> UnreachableError:
        return UnreachableError(
            f"the transfer to {self._destination} broke off",
            error.why,
            "push again: the bytes that arrived are not sent twice",
        )

    def _relay(self) -> RelaySession:
        """The relay, started by the first call: every call uses one SSH session."""
        if self._refused is not None:
            raise self._refused
        if self._session is None:
            try:
                channel = self._connection.transport.open_session(timeout=CONNECT_SECONDS)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise UnreachableError(
                    f"{self._destination} opens no session",
                    str(error),
                    "its sshd may forbid sessions (MaxSessions 0), or the connection was lost; "
                    "then run it again",
                ) from error
            try:
                self._session = RelaySession(channel, self._destination, self._python)
            except EdgekitError as error:
                self._refused = error  # a later call has the same reason
                raise
        return self._session

    def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()
        with suppress(OSError, EOFError):
            self._connection.close()
