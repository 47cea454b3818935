"""The lease of a push: a device takes one push at a time.

A push calls one verb after the other and transfers blobs in between, so no lock of a verb spans
it. Its verbs have one ancestor: the relay of its SSH session, or the controller itself for a
`local:` device. The lease names that process, and ends with it: a relay and a door end when they
have not heard from their controller for 100 seconds, so that their life is its heartbeat, whatever
happens to the device's clock. Only `offer`, the first verb of a push, takes the lease.

Any other process (a shell's parent, where a person runs the verbs) may live for days. Its lease
also ends when no bytes have arrived for `QUIET_SECONDS`.

A verb whose push has died is a child of process 1, which runs for ever: it takes no lease. A time
in the future, which a clock that was set back leaves behind, says nothing about how long a push is
quiet: the lease is stamped again, and a push that goes on is seen by the next one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgekit.agent.release.root import Root
from edgekit.errors import EdgekitError
from edgekit.store import publish

QUIET_SECONDS = 60.0
CLOCK_SECONDS = 2.0  # file systems stamp coarsely; more is in the future
SHELLS = {
    *("sh", "ash", "bash", "busybox", "csh", "dash", "elvish", "fish", "ksh", "ksh93", "lksh"),
    *("mksh", "nu", "rbash", "tcsh", "yash", "zsh"),
}


def claim(root: Root) -> None:
    """Take the lease for the process that started this verb.

    Raises:
        EdgekitError: another push holds the lease, or the push that started this verb has ended.
    """
    publish(root.lease_file, claimable(root).encode(), 0o600)


def claimable(root: Root) -> str:
    """Check that a push may take the lease, without taking it; what the lease would say.

    Raises:
        EdgekitError: as `claim`.
    """
    pid = _pusher()
    if pid == 1 and not _is_controller(pid):
        raise EdgekitError(
            "the push that asked for this has ended",
            "no process is left that could hold the device for it",
            "push again",
        )
    mine = _identity(pid)
    holder = _holder(root)
    if holder not in ("", mine) and lives(holder):
        beats = has_heartbeat(holder)
        if beats or (quiet := _quiet_seconds(root)) < QUIET_SECONDS:
            last = "" if beats else f"; its last bytes came {quiet:.0f} s ago"
            after = (
                "when its controller is gone"
                if beats
                else f"after {QUIET_SECONDS:g} s without bytes"
            )
            raise EdgekitError(
                "another push to this device is at work",
                f"process {holder.split()[0]} there holds it{last}",
                f"wait for it to end and push again; {after} the next push takes its place",
            )
    return mine


def is_held(root: Root) -> bool:
    """Whether another push is at work: its process lives, and its bytes come."""
    holder = _holder(root)
    if holder in ("", _identity(_pusher())) or not lives(holder):
        return False
    return has_heartbeat(holder) or _quiet_seconds(root) < QUIET_SECONDS


def lives(holder: str) -> bool:
    """Whether the process that a lease names runs."""
    pid = holder.partition(" ")[0]
    return pid.isascii() and pid.isdigit() and holder == _identity(int(pid))


def has_heartbeat(holder: str) -> bool:
    """Whether a living process ends by itself once its controller is gone, or is a controller.

    Of the agent's processes only a door does. The supervisor, for which the updater of a device
    that pulls takes the lease, lives for ever; its ROOT is often called `edgekit`, too.
    """
    try:
        words = Path(f"/proc/{holder.partition(' ')[0]}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    if b"edgekit.agent" in words:
        return words[words.index(b"edgekit.agent") + 1 :][:1] == [b"door"]
    if any(b"exec(sys.stdin.buffer.read(" in word for word in words):  # a relay
        return True
    names = [Path(os.fsdecode(word)).name for word in words[:4]]
    return "edgekit" in (names if names[0].startswith("python") else names[:1])


def release(root: Root) -> None:
    """Give back the lease if the process that started this verb holds it."""
    if (holder := _holder(root)) and holder == _identity(_pusher()):
        root.lease_file.unlink(missing_ok=True)


def drop_own(root: Root) -> None:
    """Take back what a verb that this process started has claimed for it, and cannot any more."""
    if (holder := _holder(root)) and holder == _identity(os.getpid()):
        root.lease_file.unlink(missing_ok=True)


def session() -> str:
    """The process that started this verb, as a lease names it; empty if it has ended."""
    pid = _pusher()
    return _identity(pid) if pid > 1 or _is_controller(pid) else ""


def drop_other(root: Root) -> None:
    """Take the lease away from another process: who may do that is decided elsewhere."""
    if _holder(root) not in ("", _identity(_pusher())):
        root.lease_file.unlink(missing_ok=True)


def _holder(root: Root) -> str:
    """The identity that the lease names; empty without a lease, or when it cannot be read."""
    try:
        words = root.lease_file.read_bytes().decode("ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return " ".join(words) if len(words) == 2 and all(word.isdigit() for word in words) else ""


def _pusher() -> int:
    """The pushing process: the nearest ancestor of this verb that is not a shell (SSH runs one)."""
    pid = os.getppid()
    while pid > 1 and (stat := _stat(pid)) and stat[0] in SHELLS:
        pid = int(stat[2])
    return pid


def _is_controller(pid: int) -> bool:
    """Whether a process is an edgekit: a container's first process may push to a folder."""
    try:
        return b"edgekit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


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
    except OSError:  # it has ended, or /proc does not show it
        return []
    name, _, rest = text.partition("(")[2].rpartition(")")
    return [name, *rest.split()]


def _quiet_seconds(root: Root) -> float:
    """Seconds since the lease was taken or bytes arrived; 0 if the lease is from the future.

    Such a lease is stamped with the present: it can be judged from now on.
    """
    now = time.time()
    taken = now - root.lease_file.stat().st_mtime
    if taken < -CLOCK_SECONDS:
        os.utime(root.lease_file)
        return 0.0
    bytes_came = (now - path.stat().st_mtime for path in root.store.folder.glob("*.part"))
    return max(min([taken, *(age for age in bytes_came if age > -CLOCK_SECONDS)]), 0.0)
