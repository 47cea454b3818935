"""The lease of a push: a device takes one push at a time.

A push calls one verb after the other and transfers blobs in between, so no lock of a verb spans
it. Its verbs have one ancestor: the SSH session, or the controller itself for a `local:` device.
The lease names that process. It ends with the process, or when no bytes have arrived for
`QUIET_SECONDS`, because a session outlives a cut cable by hours. Only `offer`, the first verb of a
push, takes the lease.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgekit.agent.release.root import Root
from edgekit.errors import EdgekitError
from edgekit.store import publish

QUIET_SECONDS = 60.0
SHELLS = {"sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "zsh"}


def claim(root: Root) -> None:
    """Take the lease for the process that started this verb.

    Raises:
        EdgekitError: another push holds the lease.
    """
    mine = _identity(_pusher())
    lease = root.lease_file
    try:
        holder = lease.read_text("utf-8")
    except FileNotFoundError:
        holder = ""
    if holder not in ("", mine):
        alive = holder == _identity(int(holder.split()[0]))
        if alive and _quiet_seconds(root) < QUIET_SECONDS:
            raise EdgekitError(
                "another push to this device is at work",
                f"process {holder.split()[0]} there holds it",
                "wait for it to end and push again",
            )
    publish(lease, mine.encode(), 0o600)


def release(root: Root) -> None:
    """Give back the lease if the process that started this verb holds it."""
    lease = root.lease_file
    if lease.exists() and lease.read_text("utf-8") == _identity(_pusher()):
        lease.unlink()


def _pusher() -> int:
    """The pushing process: the nearest ancestor of this verb that is not a shell (SSH runs one)."""
    pid = os.getppid()
    while (stat := _stat(pid)) and stat[0] in SHELLS:
        pid = int(stat[2])
    return pid


def _identity(pid: int) -> str:
    """Process id and start time, because the kernel reuses ids; empty if no process runs.

    A zombie counts as ended: a killed controller stays one until init reaps it.
    """
    stat = _stat(pid)
    return f"{pid} {stat[20]}" if stat and stat[1] != "Z" else ""


def _stat(pid: int) -> list[str]:
    """Fields of proc(5) `stat` from the second on: name, state, parent; [20] is the start time."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]


def _quiet_seconds(root: Root) -> float:
    seen = [path.stat().st_mtime for path in root.store.folder.glob("*.part")]
    return time.time() - max([root.lease_file.stat().st_mtime, *seen])
