"""The fleet at one moment: a row for each device, in order, and their sum. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.cli.talk.watching import Sighting
from edgekit.client.requester import GONE
from edgekit.fleet.inventories.selection import Selectable, select
from edgekit.gateway.catalog import Served

SILENT_SECONDS = 75.0  # a device says its status every 30 s: it has missed two
SILENT, UNSEEN = "silent", "unseen"
ORDER = (
    *("lost", SILENT, "offline", UNSEEN, "degraded", "read_only", "draining", "starting"),
    *("busy", "ready"),
)


class TopRow(msgspec.Struct, frozen=True):
    """A device at one moment.

    Attributes:
        state: that of its status; `silent` where it has said nothing for `SILENT_SECONDS`,
            `unseen` where the broker knows nothing of a device of fleet.toml.
        queue, active: prompts that wait, and that run.
        tok_s: of the last answer.
        since: Unix seconds at which the state began; 0 where nobody has seen that.
        reason: of `degraded`.
    """

    device: str
    state: str
    queue: int = 0
    active: int = 0
    tok_s: float = 0.0
    temp_c: int | None = None
    mem_free_mb: int | None = None
    mem_total_mb: int | None = None
    release: str = ""
    model: str = ""
    version: str = ""
    pools: tuple[str, ...] = ()
    since: int = 0
    reason: str = ""


class Strange(msgspec.Struct, frozen=True):
    """A device that the broker knows and fleet.toml does not."""

    tags: list[str] = []
    site: str = ""


def chosen(
    words: Sequence[str],
    devices: Mapping[str, Selectable],
    groups: Mapping[str, Sequence[str]],
    known: Mapping[str, Served],
) -> list[str]:
    """The devices that the words of the command line mean; without words all there are.

    Args:
        words: as for the commands of the fleet.
        devices, groups: of fleet.toml; empty where there is none.
        known: to the broker.

    Raises:
        UsageError: a word names nothing.
    """
    there: dict[str, Selectable] = {name: Strange() for name in known} | dict(devices)
    return select(words, there, groups, "the broker and fleet.toml" if devices else "the broker")


def row(name: str, seen: Sighting | None, now: float, began: float) -> TopRow:
    """The row of a device.

    Args:
        now: Unix seconds.
        began: Unix seconds since when the broker is listened to.
    """
    if seen is None or not seen.served.state:
        return TopRow(name, UNSEEN)
    served, heard = seen.served, seen.heard or began
    state, since = served.state, served.since or int(seen.changed)
    if state not in GONE and now - heard > SILENT_SECONDS:
        state, since = SILENT, int(heard)
    return TopRow(
        name, state, served.queue, served.active, served.tok_s, served.temp_c, served.mem_free_mb,
        served.mem_total_mb, served.release, served.model, served.version, served.pools, since,
        served.reason,
    )  # fmt: skip


# --- order ----------------------------------------------------------------------------------------
def _name(each: TopRow) -> Any:
    """pi-2 comes before pi-10."""
    parts = re.split(r"(\d{1,18})", each.device)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _down(value: float | None) -> float:
    return float("inf") if value is None else -value


SORTS: dict[str, Callable[[TopRow], Any]] = {
    "device": lambda _: 0,
    "state": lambda each: ORDER.index(each.state) if each.state in ORDER else -1,
    "queue": lambda each: -(each.queue + each.active),
    "tokens": lambda each: -each.tok_s,
    "temp": lambda each: _down(each.temp_c),
    "memory": lambda each: float("inf") if each.mem_free_mb is None else each.mem_free_mb,
    "release": lambda each: (not each.release, each.release),
    "since": lambda each: -each.since,
}
"""What the rows can go by. Each begins with what one looks for: the worst state, the longest
queue, the hottest, the least memory, the last change."""


def in_order(rows: Sequence[TopRow], sort: str, *, reverse: bool) -> list[TopRow]:
    """The rows by one of `SORTS`, and equal ones by name."""
    key = SORTS[sort]
    ordered = sorted(rows, key=lambda each: (key(each), _name(each)))
    return ordered[::-1] if reverse else ordered


def summary(rows: Sequence[TopRow]) -> str:
    """How many devices there are in which state, and what they do together."""
    states = Counter(each.state for each in rows)
    told = [f"{states[state]} {state}" for state in reversed(ORDER) if states[state]]
    told += [f"{n} {state}" for state, n in sorted(states.items()) if state not in ORDER]
    waiting = sum(each.queue for each in rows)
    busy = sum(each.tok_s for each in rows if each.active)
    words = [f"{len(rows)} devices: {', '.join(told) or 'none'}", f"{waiting} prompts wait"]
    return "; ".join([*words, f"{busy:.0f} tokens/s"] if busy else words)
