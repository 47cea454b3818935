"""The disk rule of `core.room` on this device: measures the disk, names what would free some."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from edgekit.agent.release.root import Root
from edgekit.agent.release.space.collect import find
from edgekit.agent.release.space.survey import pinned
from edgekit.core import layout
from edgekit.core.config import parse_known_agent_config
from edgekit.core.digest import Digest
from edgekit.core.manifest import Descriptor
from edgekit.core.room import BACK_BYTES, DiskRoom
from edgekit.errors import EdgekitError


def check_room(
    root: Root,
    wanted: Sequence[Descriptor],
    missing: Iterable[Mapping[str, object]],
    collected: int,
    waits: bool = False,
) -> DiskRoom:
    """Check that a release fits on the disk.

    Args:
        root: the device's folder.
        wanted: the layers that this device needs.
        missing: of these, what `offer` answers: `digest`, `size` and `have`, in bytes.
        collected: bytes that were collected for it.
        waits: they are yet to be collected.

    Returns:
        What it needs and what the disk has, or will have.

    Raises:
        EdgekitError: it does not fit; says the sum, and what would free how much.
    """
    lacks = {
        str(each["digest"]): int(str(each["size"])) - int(str(each["have"])) for each in missing
    }
    layers = {each.digest: each for each in wanted}
    unpacked = sum(
        each.unpacked or 0
        for each in layers.values()
        if not (root.path / layout.tree(each.digest)).exists()
    )
    place = os.statvfs(root.path)
    held = root.reserve_file.stat().st_size if root.reserve_file.exists() else 0
    free = place.f_bavail * place.f_frsize + min(held, BACK_BYTES) + (collected if waits else 0)
    room = DiskRoom(sum(lacks.values()), unpacked, free, place.f_blocks * place.f_frsize)
    if room.lacking:
        garbage = collected if waits else 0
        told = _next_step(root, layers, collected, garbage)
        raise room.refusal(str(root.path), told, collected)
    return room


def _next_step(root: Root, wanted: Iterable[Digest], collected: int, garbage: int) -> str:
    """What would free bytes, beside the garbage that goes anyway."""
    name = "DEVICE"
    with suppress(OSError, EdgekitError):
        name = parse_known_agent_config(root.agent_config.read_bytes()).device
    steps = [f"free some space there (`edgekit prune {name} --dry-run` lists what edgekit keeps)"]
    previous = root.linked(root.previous)
    if (
        previous is not None
        and previous != root.linked(root.current)
        and (freed := find(root, None, wanted, without=previous).freed - garbage)
    ):
        steps.append(
            f"or give up the way back: `edgekit prune {name} --previous` frees {freed:,} bytes"
        )
    for digest in sorted(pinned(root)):
        if freed := find(root, None, wanted, without=digest).freed - garbage:
            unpin = f"`edgekit prune {name} --unpin {digest.short}`"
            steps.append(f"or unpin a release: {unpin} frees {freed:,} bytes")
    changed = "what runs was not changed" if collected and not garbage else "nothing was changed"
    return f"{', '.join(steps)}; {changed}"
