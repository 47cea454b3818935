"""The connection to a device, over SSH or to a folder of this host: run an argv, append to a file.

`edgekit.fleet.ssh` opens the connection with fabric and checks the host. Writes go to an explicit
offset: late bytes of a dead transfer land where the same bytes belong.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paramiko

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.commands import Argv
from edgekit.fleet.ssh.connection import CONNECT_SECONDS, connection_to

COMMAND_SECONDS = 60.0
STALL_SECONDS = 60.0  # a transfer without progress for this long has broken off
KEEPALIVE_SECONDS = 20
CHUNK_BYTES = 1 << 18
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    stdout: bytes
    stderr: bytes


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
            raise _overdue("this machine", argv, seconds) from None
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


def _check_stored(target: str, stored: int | None, size: int) -> None:
    if stored is None or stored < size:
        raise EdgekitError(
            f"only {stored or 0:,} of {size:,} bytes of {target} were stored",
            "the disk of the device may be full",
            "free some space there and push again: the stored bytes are not sent twice",
        )


def _overdue(where: str, argv: Argv, seconds: float) -> UnreachableError:
    command = shlex.join(argv)
    return UnreachableError(
        f"{where}: a command did not end within {seconds:g} s",
        command if len(command) <= 300 else f"...{command[-300:]}",
        "look at the load of the device, then run it again",
    )


class SshRemote:
    """An `ssh:` device.

    Raises:
        UsageError: the destination or the ssh configuration cannot be read or honoured.
        UnreachableError: the device does not answer.
        VerificationError: its host key is unknown, has changed or is revoked.
        EdgekitError: it does not accept our SSH key.
    """

    def __init__(self, destination: str) -> None:
        self._destination = destination
        self._sftp: paramiko.SFTPClient | None = None
        self._connection = connection_to(destination)
        self._connection.open()
        self._connection.transport.set_keepalive(KEEPALIVE_SECONDS)

    def run(
        self, argv: Argv, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> CommandResult:
        """Run a command over the connection, with every word quoted."""
        transport = self._connection.transport
        late = threading.Event()
        try:
            with transport.open_session(timeout=CONNECT_SECONDS) as channel:

                def give_up() -> None:
                    late.set()
                    channel.close()

                timer = threading.Timer(seconds, give_up)
                timer.daemon = True
                timer.start()
                try:
                    channel.exec_command(shlex.join(argv))
                    done = _exchange(channel, stdin)
                finally:
                    timer.cancel()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._gone(str(error)) from error
        if done.code == -1 and late.is_set():
            raise _overdue(self._destination, argv, seconds)
        if done.code == -1 and not transport.is_active():
            raise self._gone("the connection was lost")
        return done

    def _gone(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"{self._destination} is gone", why, "check its power and network, then run it again"
        )

    def append(self, source: Path, target: str, offset: int, progress: Progress) -> None:
        """Append by pipelined SFTP: unpipelined, every 32 KiB wait for a round trip."""
        try:
            if self._sftp is None:
                self._sftp = self._connection.sftp()
                self._sftp.get_channel().settimeout(STALL_SECONDS)
            with (
                source.open("rb") as reader,
                self._sftp.open(target, "r+b" if offset else "wb") as writer,
            ):
                writer.set_pipelined(True)
                reader.seek(offset)
                writer.seek(offset)
                while chunk := reader.read(CHUNK_BYTES):
                    writer.write(chunk)
                    progress(len(chunk))
            # paramiko drops the last errors of a pipelined file: check the size that arrived.
            stored = self._sftp.stat(target).st_size
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise UnreachableError(
                f"the transfer to {self._destination} broke off",
                str(error),
                "push again: the bytes that arrived are not sent twice",
            ) from error
        _check_stored(target, stored, source.stat().st_size)

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError, EOFError):
            self._connection.close()


def _exchange(channel: paramiko.Channel, stdin: bytes) -> CommandResult:
    """Write stdin and read both outputs at once: each of the three has a bounded window."""
    errors: list[bytes] = []

    def feed() -> None:
        with suppress(OSError):  # the command ended without reading it; its output says why
            channel.sendall(stdin)
            channel.shutdown_write()

    def read_errors() -> None:
        with suppress(OSError), channel.makefile_stderr("rb") as stream:
            errors.append(stream.read())

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, read_errors)]
    for thread in threads:
        thread.start()
    with channel.makefile("rb") as stream:
        out = stream.read()
    code = channel.recv_exit_status()
    threads[1].join()
    return CommandResult(code, out, b"".join(errors))
