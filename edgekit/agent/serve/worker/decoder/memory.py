"""How many slots of which length, and how many beams, a device's memory has room for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgekit.agent.serve.worker.cgroup import control_groups
from edgekit.errors import EdgekitError

MAX_SLOTS = 4  # prompts side by side share one model: more wait less and run slower
SPARE_SHARE = 0.5  # of the free memory, for everything that is not KV
ALONE_SPARE_SHARE = 0.2  # where there is one slot only
MIN_LENGTH = 512  # tokens of a slot: a shorter one answers too little to be served


class OutOfMemoryError(EdgekitError):
    """The device has no room for the shortest slot."""

    retryable = True


class Room(msgspec.Struct, frozen=True):
    """Slots side by side, and the tokens that each holds."""

    slots: int
    length: int


def room_for(token_bytes: int, max_length: int, free_bytes: int, slots: int = 0) -> Room:
    """The slots that fit into the free memory.

    Where not even one of `max_length` does there is one that is shorter: half of it, a quarter and
    so on, down to `MIN_LENGTH`.

    Args:
        token_bytes: keys and values of one token.
        max_length: tokens of a slot, where the memory allows it.
        free_bytes: once the model is loaded.
        slots: how many, where one fits; 0 takes as many as fit.

    Raises:
        OutOfMemoryError: the shortest does not fit.
    """
    most = int(free_bytes * (1 - ALONE_SPARE_SHARE)) // max(1, token_bytes)  # tokens of one slot
    if most >= max_length:
        fitting = int(free_bytes * (1 - SPARE_SHARE)) // max(1, token_bytes * max_length)
        return Room(slots or max(1, min(MAX_SLOTS, fitting)), max_length)
    shortest = min(MIN_LENGTH, max_length)
    if most < shortest:
        raise OutOfMemoryError(
            "this device has too little free memory to answer",
            f"{_mb(free_bytes)} are free once the model is loaded; "
            f"the shortest context, {shortest} tokens, takes {_mb(token_bytes * shortest)} of keys "
            f"and values, and {ALONE_SPARE_SHARE:.0%} of what is free stays spare",
            "end other programs of the device, or build the model smaller",
        )
    length = max_length
    while length > most:
        length = max(shortest, length // 2)
    return Room(1, length)


def beams_for(beam_bytes: int, free_bytes: int) -> int:
    """Beams of `beam_bytes` each that fit into `free_bytes`; they may be none."""
    return int(free_bytes * (1 - SPARE_SHARE)) // max(1, beam_bytes)


def free_bytes(meminfo: Path = Path("/proc/meminfo"), groups: Iterable[Path] | None = None) -> int:
    """Memory that can still be used here: of the machine, and of our control groups if less.

    Files that are only cached count as free, in a group as in the machine's MemAvailable: a model
    that was just read fills a group with them.
    """
    fields = (line.split() for line in meminfo.read_text("ascii").splitlines())
    free = next((int(f[1]) << 10 for f in fields if f[0] == "MemAvailable:"), 0)
    left = (_left_in(group) for group in (control_groups() if groups is None else groups))
    return min([free, *(bytes_ for bytes_ in left if bytes_ is not None)])


def _left_in(group: Path) -> int | None:
    """Bytes below a control group's limit; None where it has none."""
    try:
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii"))
        stat = (group / "memory.stat").read_text("ascii")
    except OSError:  # the topmost, or version 1
        return None
    if limit == "max":
        return None
    fields = (line.split() for line in stat.splitlines())
    cached = sum(int(f[1]) for f in fields if f[0] in ("active_file", "inactive_file"))
    return max(0, int(limit) - used + min(cached, used))


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
