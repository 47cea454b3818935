"""What a push needs of a connection to a device; and the one to a folder of this host.

Nothing here imports paramiko, which takes longer than many commands run. Writes go to an explicit
offset: late bytes of a dead transfer land where the same bytes belong.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.errors import EdgekitError, UnreachableError
from edgekit.fleet.commands import Argv, CommandResult
from edgekit.fleet.transfer.values import WantedBlob

COMMAND_SECONDS = 60.0
CHUNK_BYTES = 1 << 18
Progress = Callable[[int], None]


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

    def bring(self, blobs: Sequence[WantedBlob], progress: Progress, *, aes: bool = True) -> str:
        """Bring the bytes that each blob's part lacks, on the fastest way that there is.

        Args:
            blobs: what it lacks.
            progress: called with counts of bytes.
            aes: whether its CPU has instructions for AES.

        Returns:
            Why a slower way was taken; empty for the fastest.

        Raises:
            UnreachableError: the connection is lost; what arrived stays.
            EdgekitError: the device did not store every byte.
        """
        ...

    def close(self) -> None:
        """Release the connection's resources."""
        ...


class LocalRemote:
    """A `local:` device: a folder of this host."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

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
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
            )
        except FileNotFoundError:
            return CommandResult(127, b"", f"{argv[0]}: not found".encode())
        except PermissionError:
            return CommandResult(126, b"", f"{argv[0]}: permission denied".encode())
        with self._process as process:
            try:
                out, errors = process.communicate(stdin, seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise overdue("this machine", argv, seconds) from None
            except BaseException:
                process.kill()
                raise
        return CommandResult(process.returncode, out, errors)

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
        check_stored(target, offset, size)

    def bring(self, blobs: Sequence[WantedBlob], progress: Progress, *, aes: bool = True) -> str:
        """Copy each blob."""
        for blob in blobs:
            self.append(blob.source, blob.target, blob.have, progress)
        return ""

    def close(self) -> None:
        """End the command that another thread runs, if there is one."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def _copy(source: int, target: int, at: int) -> int:
    """Copy a piece at offset `at` in the kernel, or through memory between file systems."""
    try:
        return os.copy_file_range(source, target, 1 << 26, at, at)
    except OSError:
        return os.pwrite(target, os.pread(source, CHUNK_BYTES, at), at)


def check_stored(target: str, stored: int, size: int) -> None:
    if stored < size:
        raise EdgekitError(
            f"only {stored:,} of {size:,} bytes of {target} were stored",
            "the disk of the device may be full",
            "free some space there and push again: the stored bytes are not sent twice",
        )


def overdue(where: str, argv: Argv, seconds: float) -> UnreachableError:
    """The error for a command that did not end in time."""
    command = shlex.join(argv)
    return UnreachableError(
        f"{where}: a command did not end within {seconds:g} s",
        command if len(command) <= 300 else f"...{command[-300:]}",
        "look at the load of the device, then run it again",
    )
