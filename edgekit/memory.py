"""How much memory this process may use: the machine's, or that of a lower control group.

A container and a service with a limit have less than the machine has: `MemTotal` and `MemAvailable`
of proc(5) say nothing of that. What builds, what serves and what reports all ask here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

OWN = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")
MEMINFO = Path("/proc/meminfo")


def free_bytes(meminfo: Path = MEMINFO, groups: Iterable[Path] | None = None) -> int | None:
    """Return the bytes this process can still use, on the machine and in its control groups.

    Files that are only cached count as free, in a group as in the machine's MemAvailable: reading a
    model fills a group with them. None where the kernel does not say it.
    """
    left = (_left_in(group) for group in (memory_groups() if groups is None else groups))
    known = (_of_machine(meminfo, "MemAvailable:"), *left)
    return min((bytes_ for bytes_ in known if bytes_ is not None), default=None)


def total_bytes(meminfo: Path = MEMINFO, groups: Iterable[Path] | None = None) -> int | None:
    """Return the bytes of this machine's memory, or of a control group's limit below that.

    None where the kernel does not say it.
    """
    limits = (_limit_of(group) for group in (memory_groups() if groups is None else groups))
    known = (_of_machine(meminfo, "MemTotal:"), *limits)
    return min((bytes_ for bytes_ in known if bytes_ is not None), default=None)


def memory_groups(own: Path = OWN, mounts: Path = MOUNTS) -> list[Path]:
    """Return the folders, of version 1 or 2, of the groups that limit our memory."""
    return [Path(name).parent for name in memory_limits(_text(own), _text(mounts))]


# The probe has this function, too: it runs on devices without edgekit. A test holds them equal.
def memory_limits(own: str, mounts: str) -> list[str]:
    """The files with the memory limits of a process's control group and of all those above it.

    Args:
        own: the text of its /proc/PID/cgroup (cgroups(7)).
        mounts: the text of /proc/self/mountinfo (proc(5)). A container may see its own group alone,
            as the root of the mount.
    """
    groups = [line.split(":", 2) for line in own.splitlines() if line.count(":") >= 2]
    found = []
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        words, told = place.split(" "), kind.split(" ")
        if told[0] == "cgroup2":
            name, mine = "memory.max", [path for number, _, path in groups if number == "0"]
        elif told[0] == "cgroup" and "memory" in told[-1].split(","):
            name = "memory.limit_in_bytes"
            mine = [path for _, kinds, path in groups if "memory" in kinds.split(",")]
        else:
            continue
        top, folder = words[3].rstrip("/"), words[4]
        for path in mine:
            inside = (path + "/").startswith(top + "/") and ".." not in path.split("/")
            here = folder + path[len(top) :].rstrip("/") if inside else folder
            while len(here) > len(folder):
                found.append(here + "/" + name)
                here = here.rpartition("/")[0]
            found.append(folder + "/" + name)
    return found


def _of_machine(meminfo: Path, name: str) -> int | None:
    for line in _text(meminfo).splitlines():
        words = line.split()
        if words[:1] == [name] and len(words) > 1 and words[1].isdigit():
            return int(words[1]) << 10  # kB
    return None


def _files(group: Path) -> tuple[str, str, tuple[str, str]]:
    """The files of a group with limit and use, and what its memory.stat calls files' pages."""
    if (group / "memory.limit_in_bytes").exists():  # version 1
        cached = "total_active_file", "total_inactive_file"
        return "memory.limit_in_bytes", "memory.usage_in_bytes", cached
    return "memory.max", "memory.current", ("active_file", "inactive_file")


def _limit_of(group: Path) -> int | None:
    """A control group's limit; None of the root group, and of `max`."""
    with suppress(OSError, ValueError):
        return int((group / _files(group)[0]).read_text("ascii"))
    return None


def _left_in(group: Path) -> int | None:
    """Return the bytes left below a control group's limit; None if it has no limit."""
    _, used_file, pages = _files(group)
    limit = _limit_of(group)
    try:
        used = int((group / used_file).read_text("ascii"))
        stat = (group / "memory.stat").read_text("ascii")
    except OSError:  # the root group
        return None
    if limit is None:
        return None
    fields = (line.split() for line in stat.splitlines())
    cached = sum(int(f[1]) for f in fields if f[0] in pages)
    return max(0, limit - used + min(cached, used))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
