"""The rows as lines of a screen of any size. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.cli.talk.top.rows import SORTS, TopRow
from edgekit.core.digest import short

MAX_NAME = 32
GAP = "  "
STYLES = {
    "ready": "green", "busy": "cyan", "degraded": "yellow", "read_only": "yellow",
    "draining": "blue", "starting": "blue",
}  # fmt: skip
GONE_STYLE = "red"  # of every other state


@dataclass(frozen=True, slots=True)
class TopColumn:
    """A column of the table.

    Attributes:
        title: what stands over it.
        sort: the name in `SORTS` that orders by it; empty: none does.
        cell: its text for a row at a moment in Unix seconds.
        rank: columns with the highest ranks give way where the screen is narrow.
        right: whether numbers end below each other.
        optional: whether it is absent where no row has a text for it.
    """

    title: str
    sort: str
    cell: Callable[[TopRow, float], str]
    rank: int
    right: bool = False
    optional: bool = False


def _speed(each: TopRow, _: float) -> str:
    return f"{each.tok_s:.0f}" if each.tok_s else ""


def _heat(each: TopRow, _: float) -> str:
    return "" if each.temp_c is None else f"{each.temp_c}°"


def _model(each: TopRow, _: float) -> str:
    return f"{each.model}:{each.version}" if each.model else ""


def _memory(each: TopRow, _: float) -> str:
    if each.mem_free_mb is None:
        return ""
    free = f"{each.mem_free_mb / 1024:.1f}"
    return f"{free} of {each.mem_total_mb / 1024:.1f} GB" if each.mem_total_mb else f"{free} GB"


def _since(each: TopRow, now: float) -> str:
    return lasted(now - each.since) if each.since else ""


COLUMNS = (
    TopColumn("device", "device", lambda each, _: each.device, 0),
    TopColumn("state", "state", lambda each, _: each.state, 1),
    TopColumn("why", "", lambda each, _: each.reason, 6, optional=True),
    TopColumn("runs", "", lambda each, _: str(each.active or ""), 8, right=True),
    TopColumn("waits", "queue", lambda each, _: str(each.queue or ""), 2, right=True),
    TopColumn("tok/s", "tokens", _speed, 3, right=True),
    TopColumn("temp", "temp", _heat, 4, right=True),
    TopColumn("since", "since", _since, 5, right=True),
    TopColumn("free memory", "memory", _memory, 9, right=True),
    TopColumn("release", "release", lambda each, _: short(each.release), 7),
    TopColumn("model", "", _model, 10),
)


class TopView(msgspec.Struct, frozen=True):
    """What a person has chosen to see.

    Attributes:
        sort: one of `SORTS`.
        reverse: whether the last row comes first.
        top: the number of the first row that is shown.
    """

    sort: str = "device"
    reverse: bool = False
    top: int = 0


Segment = tuple[str, str]
"""A text and its style."""


def lasted(seconds: float) -> str:
    """A time for people, in one unit; empty where the two clocks differ."""
    if seconds < -60:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def fitting(widths: Sequence[int], width: int | None) -> list[int]:
    """Which columns fit side by side, by number.

    Args:
        widths: of the columns; 0: it is absent.
        width: of the screen; None: there is room for all.
    """
    shown: list[int] = []
    used = 0
    for number in sorted(range(len(COLUMNS)), key=lambda each: COLUMNS[each].rank):
        if not widths[number]:
            continue
        more = widths[number] + (len(GAP) if shown else 0)
        if shown and width is not None and used + more > width:
            break
        shown.append(number)
        used += more
    return sorted(shown)


def table(
    rows: Sequence[TopRow],
    now: float,
    width: int | None,
    clean: Callable[[str], str],
    sort: str = "",
) -> list[list[Segment]]:
    """The lines of a table, its head first.

    Args:
        now: Unix seconds.
        width: of the screen; None: as wide as it needs to be.
        clean: makes a text of a device harmless.
        sort: the order, whose column is marked.
    """
    cells = [[clean(column.cell(each, now)) for column in COLUMNS] for each in rows]
    widths = []
    for n, column in enumerate(COLUMNS):
        longest = max((len(line[n]) for line in cells), default=0)
        absent = column.optional and not longest
        widths.append(0 if absent else min(max(longest, len(column.title)), MAX_NAME))
    shown = fitting(widths, width)
    head = [
        (_cell(COLUMNS[n].title, n, widths, shown), _head_style(COLUMNS[n], sort)) for n in shown
    ]
    lines = [head]
    for each, line in zip(rows, cells, strict=True):
        lines.append(
            [
                (
                    _cell(line[n], n, widths, shown),
                    _style(each) if COLUMNS[n].title == "state" else "",
                )
                for n in shown
            ]
        )
    return lines


def screen(
    rows: Sequence[TopRow],
    told: str,
    view: TopView,
    now: float,
    size: tuple[int, int],
    clean: Callable[[str], str],
) -> list[list[Segment]]:
    """The lines of a whole screen.

    Args:
        rows: in order, all of them.
        told: what stands above the table.
        size: width and height.
    """
    width, height = size
    room = page(height)
    part = rows[view.top : view.top + room]
    lines = [[(clean(told), "bold")], *table(part, now, width, clean, view.sort)]
    lines += [[]] * (height - 1 - len(lines))
    place = f"{view.top + 1}-{view.top + len(part)} of {len(rows)}; " if len(rows) > room else ""
    way = ", reversed" if view.reverse else ""
    lines.append([(f"{place}by {view.sort}{way}; < > sort, r reverse, q quit", "dim")])
    return lines[:height]


def page(height: int) -> int:
    """How many rows a screen has room for."""
    return max(height - 3, 1)


# What a terminal sends for arrow keys, page keys, Home and End, and letters that do the same
STEPS = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1}
PAGES = {"\x1b[5~": -1, "\x1b[6~": 1, " ": 1}
ENDS = {"\x1b[H": 0, "\x1b[1~": 0, "\x1bOH": 0, "g": 0, "\x1b[F": 1, "\x1b[4~": 1, "\x1bOF": 1,
        "G": 1}  # fmt: skip
TURNS = {"<": -1, "\x1b[D": -1, "\x1bOD": -1, ">": 1, "\x1b[C": 1, "\x1bOC": 1}
QUIT = ("q", "Q", "\x04")


def pressed(view: TopView, key: str, count: int, room: int) -> TopView | None:
    """The view after a key; None: the person wants to end. An unknown key changes nothing.

    Args:
        count: of all rows.
        room: rows on the screen.
    """
    if key in QUIT:
        return None
    if key in TURNS:
        names = list(SORTS)
        sort = names[(names.index(view.sort) + TURNS[key]) % len(names)]
        return TopView(sort, view.reverse)
    if key in ("r", "R"):
        return TopView(view.sort, not view.reverse)
    top = view.top + STEPS.get(key, 0) + PAGES.get(key, 0) * room
    if key in ENDS:
        top = ENDS[key] * count
    return msgspec.structs.replace(view, top=max(0, min(top, count - room)))


def _style(each: TopRow) -> str:
    return STYLES.get(each.state, GONE_STYLE)


def _head_style(column: TopColumn, sort: str) -> str:
    return "bold reverse" if sort and column.sort == sort else "bold"


def _cell(text: str, number: int, widths: Sequence[int], shown: Sequence[int]) -> str:
    room = widths[number]
    text = text if len(text) <= room else f"{text[: room - 1]}…"
    padded = text.rjust(room) if COLUMNS[number].right else text.ljust(room)
    return padded if number == shown[-1] else padded + GAP
