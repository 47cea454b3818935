"""One push at a time: between the verbs of a push the device remembers whose it is.

A push calls one verb after the other and transfers in between, so no lock of a verb spans it. Its
verbs have one ancestor: the SSH session, or for a `local:` device the controller itself. The lease
names that process; it ends with it, or when nothing has arrived for a while, since a session
outlives a cut cable by hours. Only `offer`, the first verb of a push, asks for it.
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
        EdgekitError: another one holds it.
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
    """The push of the process that started this verb is done."""
    lease = root.lease_file
    if lease.exists() and lease.read_text("utf-8") == _identity(_pusher()):
        lease.unlink()


def _pusher() -> int:
    """The process behind this verb: its parent, or above the shell that SSH put in between."""
    pid = os.getppid()
    while (stat := _stat(pid)) and stat[0] in SHELLS:
        pid = int(stat[2])
    return pid


def _identity(pid: int) -> str:
    """Number and start time, so that a number used again is another process; empty: none.

    A zombie is none: a killed controller leaves one where init is slow to reap.
    """
    stat = _stat(pid)
    return f"{pid} {stat[20]}" if stat and stat[1] != "Z" else ""


def _stat(pid: int) -> list[str]:
    """proc(5) `stat` from its second field on: name, state, parent; 20 fields on, the start."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]


def _quiet_seconds(root: Root) -> float:
    seen = [path.stat().st_mtime for path in root.store.folder.glob("*.part")]
    return time.time() - max([root.lease_file.stat().st_mtime, *seen])
