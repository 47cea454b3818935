"""Control groups, version 2: where the limits stand that this process lives under."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def control_groups(root: Path = ROOT, own: Path = OWN) -> list[Path]:
    """The folders of our control group and of all above it: each one's limits count.

    A systemd unit's limits stand in its own; a container has its own as the root.

    Args:
        root: where they are mounted.
        own: cgroups(7)'s `/proc/PID/cgroup`, whose line `0::/PATH` is version 2's.
    """
    try:
        lines = own.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return [root]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    here = root / path
    if ".." in here.parts:  # seen from a namespace that ours is outside of
        return [root]
    return [here, *(above for above in here.parents if above.is_relative_to(root))]
