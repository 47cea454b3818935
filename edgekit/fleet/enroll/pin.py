"""Pins a device's host key: into the known_hosts that `ssh` uses, as `ssh` itself would."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.fleet.ssh.settings import SshSettings
from edgekit.fleet.ssh.trust import UnknownHostKeyError
from edgekit.store import rewrite


def known_hosts_file(settings: SshSettings) -> Path:
    """The file that a new host key goes to: the first UserKnownHostsFile.

    Raises:
        EdgekitError: the ssh configuration names none that can keep anything.
    """
    files = settings.files("userknownhostsfile", lambda path: Path(path).is_file())
    if not files or files[0] == os.devnull:
        raise EdgekitError(
            f"the host key of {settings.named} cannot be pinned",
            "the ssh configuration sets UserKnownHostsFile to nothing",
            "take this line out for this host",
        )
    return Path(files[0])


def line_for(unknown: UnknownHostKeyError) -> str:
    """The line of known_hosts, its name hashed where the ssh configuration says HashKnownHosts."""
    settings = unknown.settings
    name = settings.known_as
    if settings.yes("hashknownhosts"):
        salt = secrets.token_bytes(20)
        told = hmac.digest(salt, name.encode(), "sha1")
        parts = (base64.b64encode(part).decode() for part in (salt, told))
        name = "|1|" + "|".join(parts)
    return f"{name} {unknown.kind} {base64.b64encode(unknown.blob).decode()}"


def pin(unknown: UnknownHostKeyError) -> tuple[Path, str]:
    """Write a host key down; the file and the line."""
    path, line = known_hosts_file(unknown.settings), line_for(unknown)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line_end = b"" if file.read(1) == b"\n" else b"\n"
        else:
            line_end = b""
        file.write(line_end + line.encode() + b"\n")
    path.chmod(path.stat().st_mode & ~0o022)
    return path, line


def unpin(path: Path, line: str) -> bool:
    """Take a line that `pin` wrote out again; whether it was there."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return False
    left = [one for one in lines if one.rstrip(b"\r\n") != line.encode()]
    if left == lines:
        return False
    if not left:
        path.unlink()
        return True
    rewrite(path, b"".join(left))
    return True
