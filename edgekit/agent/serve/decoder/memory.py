"""How many slots, and beams, a device's memory has room for."""

from __future__ import annotations

from pathlib import Path

MAX_SLOTS = 4  # prompts side by side share one model: more wait less and run slower
SPARE_SHARE = 0.5  # of the free memory, for everything that is not KV

_CGROUP = Path("/sys/fs/cgroup")


def slots_for(slot_bytes: int, free_bytes: int) -> int:
    """Slots of `slot_bytes` KV memory each that fit into `free_bytes`; at least one."""
    return max(1, min(MAX_SLOTS, int(free_bytes * (1 - SPARE_SHARE)) // max(1, slot_bytes)))


def beams_for(beam_bytes: int, free_bytes: int) -> int:
    """Beams of `beam_bytes` each that fit into `free_bytes`; they may be none."""
    return int(free_bytes * (1 - SPARE_SHARE)) // max(1, beam_bytes)


def free_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Memory that can still be used here: of the machine, and of our control group if less."""
    fields = (line.split() for line in meminfo.read_text("ascii").splitlines())
    free = next((int(f[1]) << 10 for f in fields if f[0] == "MemAvailable:"), 0)
    try:
        limit = (cgroup / "memory.max").read_text("ascii").strip()
        used = (cgroup / "memory.current").read_text("ascii").strip()
    except OSError:  # no control group of our own, or version 1
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
