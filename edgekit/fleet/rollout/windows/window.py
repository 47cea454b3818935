"""When devices may switch: spans of the clock on the wall, such as `mon-fri 22:00-05:00`. Pure.

A window is open while a clock in its zone shows a time within one of its spans. So an hour that a
zone skips in spring opens nothing, and an hour that comes twice in autumn counts twice. A span over
midnight belongs to the day on which it begins.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

ALWAYS = "always"
OR = " or "
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
LOOK_DAYS = 15  # a week's only span may fall into the hour that a zone skips
_SPAN = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-,][a-z]{3})*) )?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)"
    r"(?: (?P<zone>[A-Z][A-Za-z0-9_+/-]*))?"
)


class WindowSpan(msgspec.Struct, frozen=True):
    """A part of some days of the week.

    Attributes:
        days: on which it begins, 0 is Monday.
        start: minutes of that day.
        end: minutes of that day, or of the next one if it is not after `start`.
        zone: of the clock, by its IANA name.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: str

    def holds(self, local: datetime) -> bool:
        """Whether a clock on the wall shows a time of this span."""
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or (
            (day - 1) % 7 in self.days and minute < self.end
        )

    def __str__(self) -> str:
        named = ",".join(name for day, name in enumerate(DAYS) if day in self.days)
        days = "" if len(self.days) == len(DAYS) else f"{named} "
        return f"{days}{_clock(self.start)}-{_clock(self.end)} {self.zone}"


class Window(msgspec.Struct, frozen=True):
    """Spans of which any opens it; none: it is always open."""

    spans: tuple[WindowSpan, ...]

    def is_open(self, now: float) -> bool:
        """Whether it is open at `now`, in Unix seconds."""
        return not self.spans or any(span.holds(_local(span.zone, now)) for span in self.spans)

    def next_change(self, now: float) -> float | None:
        """When it opens or closes next after `now`, in Unix seconds; None: never."""
        is_open = self.is_open(now)
        moments = sorted({at for span in self.spans for at in _moments(span, now) if at > now})
        return next((at for at in moments if self.is_open(at) != is_open), None)

    def __str__(self) -> str:
        return OR.join(map(str, self.spans)) or ALWAYS


def parse_window(text: str, zone: str = "") -> Window:
    """Read a window: `always`, or spans joined by ` or `.

    Args:
        text: as a person writes it: `22:00-05:00`, `sat,sun 00:00-24:00 Europe/Berlin`.
        zone: for spans that name none; empty: each names its own.

    Raises:
        ValueError: it cannot be read.
    """
    if text.strip() == ALWAYS:
        return Window(())
    return Window(tuple(_span(part.strip(), zone) for part in text.split(OR)))


def _span(text: str, zone: str) -> WindowSpan:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no window: one is like `22:00-05:00` or `mon-fri 22:00-05:00 Asia/Tokyo`"
        )
    start, end = _minutes(found["start"]), _minutes(found["end"])
    if start in (end, DAY_MINUTES):
        raise ValueError(f"the window {text!r} is empty; `{ALWAYS}` is open all the time")
    if not (named := found["zone"] or zone):
        raise ValueError(f"the window {text!r} names no time zone, such as `Europe/Berlin`")
    return WindowSpan(_days(found["days"] or "mon-sun"), start, end, named)


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} is no day of the week: they are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        count = (DAYS.index(last or first) - begin) % 7
        days |= {(begin + day) % 7 for day in range(count + 1)}
    return frozenset(days)


def _minutes(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    total = hour * 60 + minute
    if minute > 59 or total > DAY_MINUTES:
        raise ValueError(f"{text} is no time of the day")
    return total


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _local(zone: str, at: float) -> datetime:
    return datetime.fromtimestamp(at, ZoneInfo(zone))


def _moments(span: WindowSpan, now: float) -> list[float]:
    """When the span may begin or end within `LOOK_DAYS`: its own times, and jumps of its clock."""
    zone = ZoneInfo(span.zone)
    today = _local(span.zone, now).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    found = []
    for day in range(-1, LOOK_DAYS):
        for minutes in (span.start, span.end):
            shown = today + timedelta(days=day, minutes=minutes)
            found += [shown.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)]
    for day in range(LOOK_DAYS):
        begin, end = (now + 86400.0 * each for each in (day, day + 1))
        if _offset(span.zone, begin) != _offset(span.zone, end):
            found.append(_jump(span.zone, begin, end))
    return found


def _offset(zone: str, at: float) -> timedelta | None:
    return _local(zone, at).utcoffset()


def _jump(zone: str, begin: float, end: float) -> float:
    """The second between two moments from which on the clock has another offset."""
    low, high, before = int(begin), int(end) + 1, _offset(zone, begin)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == before:
            low = middle
        else:
            high = middle
    return float(high)
