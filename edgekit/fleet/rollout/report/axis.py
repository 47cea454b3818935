"""Where a time stands in a picture: an axis that shortens long stops, and says so. Pure.

A rollout that waits a night for a person would show a night and nothing else. So a stop in which
nothing happened, longer than all shorter ones together, gets a fixed width and its duration.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime, tzinfo
from itertools import pairwise

import msgspec

STOP_SECONDS = 60.0  # shorter ones are drawn as they are
STOP_WIDTH = 34.0  # pixels of a shortened stop
MOST_STOPS = 8
TICK_WIDTH = 96.0  # pixels between two marks, at least
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    _DAY,
)


class AxisPiece(msgspec.Struct, frozen=True):
    """A part of the axis, from `since` to `until` (Unix seconds) and `left` to `right` (pixels)."""

    since: float
    until: float
    left: float
    right: float
    shortened: bool


class AxisMark(msgspec.Struct, frozen=True):
    """A mark: its place, its time, and its day where that is another than the mark's before."""

    x: float
    label: str
    day: str


class TimeAxis(msgspec.Struct, frozen=True):
    """The pieces from left to right."""

    pieces: list[AxisPiece]

    def x(self, at: float) -> float:
        """The place of a time in pixels; a time outside stands at the nearer end."""
        place = bisect_right(self.pieces, at, key=lambda piece: piece.since) - 1
        piece = self.pieces[max(0, place)]
        length = piece.until - piece.since
        share = (at - piece.since) / length if length else 0.0
        return piece.left + (piece.right - piece.left) * min(1.0, max(0.0, share))

    def ticks(self, zone: tzinfo) -> list[AxisMark]:
        """Marks at round local times."""
        drawn = [piece for piece in self.pieces if not piece.shortened]
        seconds = sum(piece.until - piece.since for piece in drawn)
        width = sum(piece.right - piece.left for piece in drawn)
        wanted = seconds / max(1.0, width) * TICK_WIDTH
        step = next((step for step in _STEPS if step >= wanted), _DAY * (1 + int(wanted // _DAY)))
        found: list[AxisMark] = []
        day = ""
        for at in (at for piece in drawn for at in _round_times(piece, step, zone)):
            if found and self.x(at) - found[-1].x < TICK_WIDTH / 2:
                continue
            local = datetime.fromtimestamp(at, zone)
            today = f"{local:%Y-%m-%d}"
            label = f"{local:%H:%M:%S}" if step < _MINUTE else f"{local:%H:%M}"
            found.append(AxisMark(self.x(at), label, "" if today == day else today))
            day = today
        return found


def _round_times(piece: AxisPiece, step: int, zone: tzinfo) -> list[float]:
    """The multiples of a step in local time; the piece's begin where there is none."""
    offset = datetime.fromtimestamp(piece.since, zone).utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = -(-(piece.since + shift) // step) * step - shift
    count = int((piece.until - first) // step) + 1
    return [first + step * place for place in range(count)] or [piece.since]


def axis(begin: float, end: float, times: Iterable[float], left: float, right: float) -> TimeAxis:
    """Make an axis.

    Args:
        begin, end: Unix seconds.
        times: at which something happened.
        left, right: pixels.
    """
    cuts = sorted({begin, end, *(at for at in times if begin < at < end)})
    gaps = list(pairwise(cuts))
    stops = _stops(gaps)
    drawn = sum(until - since for since, until in gaps if (since, until) not in stops)
    scale = (right - left - STOP_WIDTH * len(stops)) / drawn if drawn else 0.0
    pieces: list[AxisPiece] = []
    x = left
    for since, until in gaps:
        shortened = (since, until) in stops
        width = STOP_WIDTH if shortened else (until - since) * scale
        if pieces and not shortened and not pieces[-1].shortened:
            last = pieces.pop()
            pieces.append(AxisPiece(last.since, until, last.left, x + width, shortened=False))
        else:
            pieces.append(AxisPiece(since, until, x, x + width, shortened=shortened))
        x += width
    return TimeAxis(pieces or [AxisPiece(begin, end, left, right, shortened=False)])


def _stops(gaps: list[tuple[float, float]]) -> set[tuple[float, float]]:
    """The gaps to shorten: the first that is longer than all shorter ones, and all above it."""
    ordered = sorted(gaps, key=lambda gap: gap[1] - gap[0])
    total = 0.0
    for place, (since, until) in enumerate(ordered):
        if until - since > max(STOP_SECONDS, total) and place:
            return set(ordered[max(place, len(ordered) - MOST_STOPS) :])
        total += until - since
    return set()
