"""Finds the control groups whose limits apply to this process."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def control_groups(root: Path = ROOT, own: Path = OWN) -> list[Path]:
    """Return the version 2 folders of our control group and of all its parents: each one's limits
    apply.

    A systemd unit's limits are in the unit's own group. A container sees its own group as the root.

    Args:
        root: the mount point of the control groups.
        own: `/proc/PID/cgroup`; its line `0::/PATH` names the version 2 group (cgroups(7)).
    """
    try:
        lines = own.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return [root]
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    here = root / path
    if ".." in here.parts:  # our group is outside of this cgroup namespace
        return [root]
    return [here, *(above for above in here.parents if above.is_relative_to(root))]
