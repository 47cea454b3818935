"""The way to a device: run an argv there, append to a file there. SSH, or a folder of this host.

The only door to fabric. fabric accepts any host key by default and loads no known_hosts; this
connection loads the user's and the system's and rejects what they do not know.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fabric
import paramiko

from edgekit.errors import EdgekitError, UnreachableError, VerificationError
from edgekit.fleet.commands import Argv

CONNECT_SECONDS = 15
COMMAND_SECONDS = 60.0
CHUNK_BYTES = 1 << 18
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Remote(Protocol):
    """One device, reached."""

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Finished:
        """Run a command with a deadline.

        Raises:
            UnreachableError: the device is gone or the deadline passed.
        """
        ...

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Write `source` from `offset` on to the end of `target`, which has `offset` bytes.

        Raises:
            UnreachableError: the device is gone.
        """
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LocalRemote:
    """A `local:` device: a folder of this host."""

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Finished:
        """Run it here, without this process's environment."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(Path.home())}
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
            raise UnreachableError(f"{argv[0]} did not end within {seconds:g} s") from None
        except FileNotFoundError:
            return Finished(127, b"", f"{argv[0]}: not found".encode())
        return Finished(done.returncode, done.stdout, done.stderr)

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Copy, sharing extents where the file system can; never a hard link.

        Two stores with one inode would turn damage in one into damage in both.
        """
        size = source.stat().st_size
        with source.open("rb") as reader, Path(target).open("ab") as writer:
            reader.seek(offset)
            at = offset
            while at < size:
                try:
                    copied = os.copy_file_range(
                        reader.fileno(), writer.fileno(), min(size - at, 1 << 26), at
                    )
                except OSError:  # another file system, or an append-mode target
                    reader.seek(at)
                    copied = writer.write(reader.read(CHUNK_BYTES))
                    writer.flush()
                at += copied
                progress(copied)

    def close(self) -> None:
        """Nothing is held."""


class _Connection(fabric.Connection):  # type: ignore[misc]
    """fabric's connection with real host-key checking."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        client = self.client
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.load_system_host_keys()  # ~/.ssh/known_hosts
        for path in self._known_hosts():
            if path.exists():
                client.load_host_keys(str(path))

    def _known_hosts(self) -> list[Path]:
        named = self.ssh_config.get("userknownhostsfile", "").split()
        return [Path(p).expanduser() for p in named] + [Path("/etc/ssh/ssh_known_hosts")]


class SshRemote:
    """An `ssh:` device."""

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._connection = _Connection(
            destination,
            connect_timeout=CONNECT_SECONDS,
            config=fabric.Config(overrides={"run": {"in_stream": False}}),
            connect_kwargs={"banner_timeout": CONNECT_SECONDS, "auth_timeout": CONNECT_SECONDS},
        )
        self._open()
        self._sftp: paramiko.SFTPClient | None = None

    def _open(self) -> None:
        name = self._destination
        try:
            self._connection.open()
        except paramiko.BadHostKeyException as error:
            raise VerificationError(
                f"the host key of {name} is not the one in known_hosts",
                str(error),
                "if the device was set up anew, remove the old key with `ssh-keygen -R`",
            ) from error
        except paramiko.AuthenticationException as error:
            raise EdgekitError(
                f"{name} does not let us in", str(error), "add this machine's key to the account"
            ) from error
        except paramiko.SSHException as error:
            if "known_hosts" in str(error):
                raise VerificationError(
                    f"the host key of {name} is unknown",
                    str(error),
                    f"compare its fingerprint, then log in once with `ssh {name}` to record it",
                ) from error
            raise UnreachableError(f"{name} does not speak SSH", str(error)) from error
        except (OSError, EOFError) as error:
            raise UnreachableError(f"{name} cannot be reached", str(error)) from error

    def run(self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Finished:
        """Run it over the connection; every word is quoted."""
        transport = self._connection.transport
        try:
            channel = transport.open_session(timeout=CONNECT_SECONDS)
            with channel:
                channel.settimeout(seconds)
                channel.exec_command(shlex.join(argv))
                return _exchange(channel, stdin)
        except TimeoutError:
            raise UnreachableError(
                f"{self._destination}: {argv[0]} did not end within {seconds:g} s"
            ) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise UnreachableError(f"{self._destination} is gone", str(error)) from error

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Pipelined SFTP: without it every 32 KiB wait for a round trip."""
        try:
            if self._sftp is None:
                self._sftp = self._connection.sftp()
            with source.open("rb") as reader, self._sftp.open(target, "ab") as writer:
                writer.set_pipelined(True)
                reader.seek(offset)
                while chunk := reader.read(CHUNK_BYTES):
                    writer.write(chunk)
                    progress(len(chunk))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise UnreachableError(
                f"the transfer to {self._destination} broke off",
                str(error),
                "push again: what has arrived is not sent twice",
            ) from error

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError, EOFError):
            self._connection.close()


def _exchange(channel: paramiko.Channel, stdin: bytes) -> Finished:
    """Feed stdin, then read both streams.

    In turn, since the commands here read all of their input before they print, and print less
    than the 2 MiB that a channel buffers.
    """
    with suppress(OSError):  # it ended without reading; its output says why
        channel.sendall(stdin)
    channel.shutdown_write()
    with channel.makefile("rb") as stdout, channel.makefile_stderr("rb") as stderr:
        out, err = stdout.read(), stderr.read()
    return Finished(channel.recv_exit_status(), out, err)
