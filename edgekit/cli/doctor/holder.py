"""Who listens at a TCP port of this machine (proc_net_tcp.txt of the kernel)."""

from __future__ import annotations

from pathlib import Path

_LISTEN = "0A"


def holder(port: int) -> str | None:
    """Name and id of the process that listens there; None: nobody; empty: another user's."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(each.readlink()) in inodes for each in (process / "fd").iterdir()):
                name = (process / "comm").read_text("utf-8", "replace").strip()
                return f"{name} (process {process.name})"
        except OSError:  # another user's, or gone
            continue
    return ""
