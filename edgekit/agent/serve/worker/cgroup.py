"""Finds the control groups whose limits apply to this process."""

from __future__ import annotations

from pathlib import Path

from edgekit.agent.release.door import probe

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_groups(own: Path = OWN, mounts: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """Return the folders, of version 1 or 2, of the groups that limit our memory."""
    files = probe.memory_limits(probe.read(str(own)), probe.read(str(mounts)))
    return [Path(name).parent for name in files]


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
