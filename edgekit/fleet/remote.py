"""The connection to a device, over SSH or to a folder of this host: run an argv, append to a file.

The only door to fabric. fabric by default accepts any host key and loads no known_hosts. This
connection loads the files that OpenSSH would load, and rejects a host that they lack, whatever
StrictHostKeyChecking says. Writes go to an explicit offset: late bytes of a dead transfer land
where the same bytes belong.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import fabric
import paramiko

from edgekit.errors import EdgekitError, UnreachableError, UsageError, VerificationError
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.passphrase import hint, is_encrypted, unlock
from edgekit.fleet.session import RelaySession, overdue

CONNECT_SECONDS = 15
COMMAND_SECONDS = 60.0
KEEPALIVE_SECONDS = 20
CHUNK_BYTES = 1 << 18
Progress = Callable[[int], None]

# Without a handler Python prints paramiko's warnings and tracebacks over our own errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Remote(Protocol):
    """The connection to one device."""

    def run(
        self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> CommandResult:
        """Run a command with a deadline.

        Raises:
            UnreachableError: the connection is lost, or the deadline has passed.
        """
        ...

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Append the bytes of `source` after `offset` to `target`, which has `offset` bytes.

        Raises:
            UnreachableError: the connection is lost.
            EdgekitError: the device did not store every byte.
        """
        ...

    def close(self) -> None:
        """Release the connection's resources."""
        ...


class LocalRemote:
    """A `local:` device: a folder of this host."""

    def run(
        self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> CommandResult:
        """Run a command on this host, without this process's environment."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(Path.home()),
            "PYTHONSAFEPATH": "1",  # the working folder may have a json.py
        }
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                timeout=seconds,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise overdue("this machine", argv, seconds) from None
        except FileNotFoundError:
            return CommandResult(127, b"", f"{argv[0]}: not found".encode())
        except PermissionError:
            return CommandResult(126, b"", f"{argv[0]}: permission denied".encode())
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Copy a file, sharing extents where the file system can; never as a hard link.

        With one inode for two stores, damage in one would be damage in both.
        """
        try:
            with source.open("rb") as reader, Path(target).open("r+b" if offset else "wb") as to:
                size = os.fstat(reader.fileno()).st_size
                while offset < size and (copied := _copy(reader.fileno(), to.fileno(), offset)):
                    offset += copied
                    progress(copied)
        except OSError as error:
            raise EdgekitError(
                f"{target} cannot be written",
                str(error),
                "check the free space and the rights there, then push again",
            ) from error
        _check_stored(target, offset, size)

    def close(self) -> None:
        """Do nothing: a folder needs no connection."""


def _copy(source: int, target: int, at: int) -> int:
    """Copy a piece at offset `at` in the kernel, or through memory between file systems."""
    try:
        return os.copy_file_range(source, target, 1 << 26, at, at)
    except OSError:
        return os.pwrite(target, os.pread(source, CHUNK_BYTES, at), at)


def _check_stored(target: str, stored: int, size: int) -> None:
    if stored < size:
        raise EdgekitError(
            f"only {stored:,} of {size:,} bytes of {target} were stored",
            "the disk of the device may be full",
            "free some space there and push again: the stored bytes are not sent twice",
        )


class _Ask(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """Rejects a host that known_hosts lacks, and shows its fingerprint for comparison."""

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        name, _, port = hostname.strip("[").partition("]:")
        login = f"ssh -p {port} {name}" if port else f"ssh {name}"
        raise VerificationError(
            f"the host key of {hostname} is unknown: known_hosts does not have it",
            f"it presents {key.get_name()} {key.fingerprint}",
            f"compare this fingerprint with the device's, then log in once with `{login}` "
            "to record it",
        )


def _transport(*args: Any, **kwargs: Any) -> paramiko.Transport:
    """Make a transport that prefers AES-GCM: a third faster than paramiko's default, AES-CTR."""
    transport = paramiko.Transport(*args, **kwargs)
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


class _Connection(fabric.Connection):  # type: ignore[misc]  # fabric has no types
    """fabric's connection, which checks the host keys of the device and of every jump host."""

    def __init__(self, host: str, gateway: Any = None) -> None:
        timeouts = {"banner_timeout": CONNECT_SECONDS, "auth_timeout": CONNECT_SECONDS}
        super().__init__(
            host,
            gateway=gateway,
            connect_timeout=CONNECT_SECONDS,
            connect_kwargs={**timeouts, "transport_factory": _transport},
        )
        self.client.set_missing_host_key_policy(_Ask())
        for path in self._known_hosts():
            if path.is_file():
                self.client.load_system_host_keys(str(path))

    def _known_hosts(self) -> list[Path]:
        """OpenSSH's files: UserKnownHostsFile replaces the user's files, the global files stay."""
        user = self.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
        system = self.ssh_config.get(
            "globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
        )
        return [Path(path).expanduser() for path in f"{user} {system}".split()]

    def resolve_connect_kwargs(self, connect_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Leave out identity files that do not exist, as OpenSSH does."""
        kwargs: dict[str, Any] = super().resolve_connect_kwargs(connect_kwargs)
        names = kwargs.pop("key_filename", [])
        found = [str(path) for path in (Path(n).expanduser() for n in names) if path.exists()]
        return kwargs | ({"key_filename": found} if found else {})

    def identity_files(self) -> list[Path]:
        """The private keys that are named for this host, and those of the home."""
        named = self.connect_kwargs.get("key_filename", [])
        home = Path("~/.ssh").expanduser()
        return [*map(Path, named), *(home / f"id_{kind}" for kind in ("ed25519", "ecdsa", "rsa"))]

    def get_gateway(self) -> Any:
        """Make the ProxyJump connections of this class: fabric's own would accept any host key."""
        jumps = self.ssh_config.get("proxyjump", "")
        if not jumps:
            return super().get_gateway()
        gateway = None
        for hop in jumps.split(",") if jumps != "none" else []:
            if self.derive_shorthand(hop)["host"] in (self.host, self.original_host):
                return None  # `Host *` names the jump host as its own
            gateway = _Connection(hop.strip(), gateway)
        return gateway


class SshRemote:
    """An `ssh:` device.

    Raises:
        UsageError: the destination or the ssh configuration cannot be read.
        UnreachableError: the device does not answer.
        VerificationError: its host key is unknown or has changed.
        EdgekitError: it does not accept our SSH key.
    """

    def __init__(self, destination: str, python: str = "python3") -> None:
        self._destination = destination
        self._python = python
        self._session: RelaySession | None = None
        self._refused: EdgekitError | None = None
        try:
            self._connection = _Connection(destination)
        except (ValueError, paramiko.SSHException) as error:
            raise UsageError(
                f"ssh:{destination} cannot be used",
                str(error),
                "correct the address in fleet.toml, or ~/.ssh/config",
            ) from error
        try:
            self._open()
        except EdgekitError:
            self._connection.client.close()
            raise

    def _open(self) -> None:
        locked = [file for file in self._connection.identity_files() if is_encrypted(file)]
        try:
            return self._log_in()
        except EdgekitError as error:
            if not locked or isinstance(error, UnreachableError | VerificationError):
                raise
            refused = error
        for file in locked:
            if (key := unlock(file)) is None:
                why = f"{refused.why}; {hint(file)}"
                raise EdgekitError(refused.what, why, refused.next_step) from refused
            self._connection.client.close()
            self._connection.connect_kwargs["pkey"] = key
            try:
                return self._log_in()
            except EdgekitError as error:
                refused = error
        raise refused

    def _log_in(self) -> None:
        name = self._destination
        try:
            self._connection.open()
        except paramiko.BadHostKeyException as error:
            port = self._connection.port
            known = error.hostname if port == 22 else f"[{error.hostname}]:{port}"
            raise VerificationError(
                f"the host key of {name} has changed: it is not the one in known_hosts",
                f"it presents {error.key.fingerprint}, known is {error.expected_key.fingerprint}",
                "an attacker may be in between; if the device was set up anew, remove the old key "
                f"with `ssh-keygen -R '{known}'` and log in once",
            ) from error
        except paramiko.BadAuthenticationType as error:
            if "publickey" in error.allowed_types:
                raise self._not_let_in(error) from error
            raise EdgekitError(
                f"{name} does not let us in as {self._connection.user}",
                f"its sshd takes no keys, only {', '.join(error.allowed_types)}; edgekit gives no "
                "password",
                "set `PubkeyAuthentication yes` in its sshd_config and add this machine's public "
                "key to the account",
            ) from error
        except paramiko.SSHException as error:
            transport = self._connection.client.get_transport()
            if isinstance(error, paramiko.AuthenticationException) or (
                transport is not None and transport.initial_kex_done
            ):
                raise self._not_let_in(error) from error
            raise UnreachableError(
                f"{name} does not speak SSH with us",
                str(error),
                "check its address and port in fleet.toml",
            ) from error
        except (OSError, EOFError) as error:
            raise UnreachableError(
                f"{name} cannot be reached",
                str(error),
                "check that it is on, and its address in fleet.toml",
            ) from error
        self._connection.transport.set_keepalive(KEEPALIVE_SECONDS)

    def _not_let_in(self, error: Exception) -> EdgekitError:
        return EdgekitError(
            f"{self._destination} does not let us in as {self._connection.user}",
            str(error),
            f"add this machine's public key to the account (`ssh-copy-id {self._destination}`), "
            "or set IdentityFile in ~/.ssh/config",
        )

    def run(
        self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> CommandResult:
        """Run a command by the relay; its words meet no shell."""
        return self._relay().run(argv, stdin, seconds)

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Append by the relay, without a round trip for each chunk."""
        try:
            stored = self._relay().append(source, target, offset, progress)
        except UnreachableError as error:
            raise UnreachableError(
                f"the transfer to {self._destination} broke off",
                error.why,
                "push again: the bytes that arrived are not sent twice",
            ) from error
        _check_stored(target, stored, source.stat().st_size)

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
