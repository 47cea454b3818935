"""A rollout over time as a drawing: bars and areas with their places in pixels. Pure.

A fleet of up to `MOST_ROWS` devices has a row for each. A larger one has a band for each wave, in
which the height of a colour is the number of devices in that state, and rows for the devices that
failed or were away.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from itertools import accumulate

import msgspec

from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.report.axis import AxisMark, AxisPiece, TimeAxis, axis
from edgekit.fleet.rollout.telling.timeline import Timeline, TimeSegment
from edgekit.fleet.rollout.telling.told import counted, lasted, printable

WIDTH = 1080
LEFT, RIGHT = 168, WIDTH - 12  # of the part with the time
ROW, BAR = 18, 12  # pixels of a device's row and of the bar in it
TITLE_ROW = 24
BANDS_HEIGHT, LEAST_BAND = 380, 40
MOST_ROWS = 60
MOST_TROUBLED = 40
LABEL_LETTERS = 24
PAD = 14  # pixels after the end: what a device became last has a place to show
LEAST_BAR = 1.5

_STACK = (  # from the bottom of a band
    DeviceState.GOOD,
    DeviceState.SOAKING,
    DeviceState.SWITCHING,
    DeviceState.STAGED,
    DeviceState.STAGING,
    DeviceState.BACK,
    DeviceState.GOING_BACK,
    DeviceState.FAILED,
    DeviceState.AWAY,
    DeviceState.WAITING,
)


class PictureBar(msgspec.Struct, frozen=True):
    """A rectangle; `kind` is its class, `words` says what it is."""

    kind: str
    x: float
    width: float
    words: str
    label: str = ""


class PictureRow(msgspec.Struct, frozen=True):
    """A line of the picture, `y` pixels from its top; a heading has no bars."""

    label: str
    y: float
    bars: list[PictureBar]
    heading: bool = False


class PictureArea(msgspec.Struct, frozen=True):
    """The devices of one wave in one state: the data of an SVG path."""

    kind: str
    path: str
    words: str


class PictureBand(msgspec.Struct, frozen=True):
    """One wave of a large fleet."""

    label: str
    devices: int
    y: float
    height: float
    areas: list[PictureArea]


class PictureOrder(msgspec.Struct, frozen=True):
    """Something that somebody ordered."""

    x: float
    order: str
    words: str


class Picture(msgspec.Struct, frozen=True):
    """Everything to draw.

    Attributes:
        top: where the rows and bands begin.
        bottom: where they end.
        said: the picture in words.
        states: which states are drawn, for the legend.
    """

    width: int
    height: float
    left: float
    right: float
    top: float
    bottom: float
    phases: list[PictureBar]
    waves: list[PictureBar]
    rows: list[PictureRow]
    bands: list[PictureBand]
    pauses: list[PictureBar]
    stops: list[PictureBar]
    orders: list[PictureOrder]
    ticks: list[AxisMark]
    states: list[DeviceState]
    said: str


def picture(line: Timeline, zone: tzinfo) -> Picture:
    """Draw a timeline.

    Args:
        line: the rollout over time.
        zone: whose clock the picture shows.
    """
    scale = axis(line.begin, line.end, line.times, LEFT, RIGHT - PAD)
    made = _Drawing(line, scale, zone)
    rows: list[PictureRow] = []
    bands: list[PictureBand] = []
    y = top = 84.0
    if len(line.devices) <= MOST_ROWS:
        for number, names in enumerate(line.members, 1):
            rows.append(PictureRow(f"wave {number}", y, [], heading=True))
            y += TITLE_ROW
            rows += made.rows(names, y)
            y += ROW * len(names)
    else:
        bands = made.bands(y)
        y = bands[-1].y + bands[-1].height
        if names := made.troubled():
            shown = min(len(names), MOST_TROUBLED)
            title = f"failed or away: {shown} of {len(names)}"
            rows.append(PictureRow(title, y + 8, [], heading=True))
            rows += made.rows(names[:shown], y + 8 + TITLE_ROW)
            y += 8 + TITLE_ROW + ROW * shown
    seen = {span.what for spans in line.devices.values() for span in spans}
    return Picture(
        width=WIDTH,
        height=y + 40,
        left=LEFT,
        right=RIGHT,
        top=top,
        bottom=y,
        phases=made.bars("phase", line.phases),
        waves=made.bars("wave", line.waves),
        rows=rows,
        bands=bands,
        pauses=[bar for bar in made.bars("phase", line.phases) if bar.kind == "phase-paused"],
        stops=[_stop(piece) for piece in scale.pieces if piece.shortened],
        orders=[
            PictureOrder(
                scale.x(order.at),
                order.order,
                f"{made.clock(order.at)} {order.order} ordered by {order.by}"
                + (f": {order.reason}" if order.reason else ""),
            )
            for order in line.orders
        ],
        ticks=scale.ticks(zone),
        states=[state for state in DeviceState if state in seen],
        said=made.said(),
    )


class _Drawing:
    def __init__(self, line: Timeline, scale: TimeAxis, zone: tzinfo) -> None:
        self._line, self._scale, self._zone = line, scale, zone

    def clock(self, at: float) -> str:
        """The time of day."""
        return f"{datetime.fromtimestamp(at, self._zone):%H:%M:%S}"

    def bars(self, name: str, spans: list[TimeSegment]) -> list[PictureBar]:
        """The bars of a device, of the phases or of the waves."""
        found = []
        for span, (x, right) in self._placed(spans):
            what = f"wave {span.what}" if name == "wave" else str(span.what)
            words = f"{what} from {self.clock(span.since)}, {lasted(span.until - span.since)}"
            if reason := printable(span.reason):
                words += f": {reason}"
            kind = name if name == "wave" else f"{name}-{span.what.replace(' ', '-')}"
            wide = right - x > 7 * len(what) + 10
            bar = PictureBar(kind, x, max(right - x, LEAST_BAR), words, what if wide else "")
            found.append(bar)
        return found

    def rows(self, names: list[str], y: float) -> list[PictureRow]:
        """A row for each device, those that were begun first on top."""
        spans = self._line.devices
        ordered = sorted(names, key=lambda name: (spans[name][0].until, name))
        return [
            PictureRow(
                name if len(name) <= LABEL_LETTERS else name[: LABEL_LETTERS - 1] + "…",
                y + ROW * place,
                [
                    msgspec.structs.replace(bar, words=f"{name}: {bar.words}", label="")
                    for bar in self.bars("state", spans[name])
                ],
            )
            for place, name in enumerate(ordered)
        ]

    def bands(self, y: float) -> list[PictureBand]:
        """A band for each wave."""
        found = []
        total = len(self._line.devices)
        for number, names in enumerate(self._line.members, 1):
            height = max(LEAST_BAND, BANDS_HEIGHT * len(names) / total)
            areas = self._areas(names, y, height)
            found.append(PictureBand(f"wave {number}", len(names), y, height, areas))
            y += height + 6
        return found

    def troubled(self) -> list[str]:
        """Devices that failed or were away, in the order of their waves."""
        bad = (DeviceState.FAILED, DeviceState.AWAY)
        return [
            name
            for names in self._line.members
            for name in sorted(names)
            if any(span.what in bad for span in self._line.devices[name])
        ]

    def _placed(
        self, spans: list[TimeSegment]
    ) -> Iterator[tuple[TimeSegment, tuple[float, float]]]:
        """Each with its left and its right; the last one goes on to the end of the picture."""
        for place, span in enumerate(spans, 1):
            right = RIGHT if place == len(spans) else self._scale.x(span.until)
            yield span, (self._scale.x(span.since), right)

    def _areas(self, names: list[str], y: float, height: float) -> list[PictureArea]:
        """The states of some devices, stacked; one column for each pixel."""
        columns = RIGHT - LEFT
        changes = {state: [0] * (columns + 1) for state in _STACK}
        for name in names:
            for span, (x, right) in self._placed(self._line.devices[name]):
                counts = changes[DeviceState(span.what)]
                counts[int(x) - LEFT] += 1
                counts[int(right) - LEFT] -= 1
        floor = [0] * columns
        areas = []
        for state in _STACK:
            counts = list(accumulate(changes[state]))[:columns]
            roof = [below + count for below, count in zip(floor, counts, strict=True)]
            if any(counts):
                scale = height / len(names)
                bottom = y + height
                path = _outline(
                    [bottom - n * scale for n in roof], [bottom - n * scale for n in floor]
                )
                words = f"{state}: at most {counted(max(counts), 'device')} at a time"
                areas.append(PictureArea(f"state-{state.replace(' ', '-')}", path, words))
            floor = roof
        return areas

    def said(self) -> str:
        """The picture in words."""
        line = self._line
        all_of_them = counted(len(line.devices), "device")
        parts = [
            f"From {self.clock(line.begin)} to {self.clock(line.end)}, {all_of_them}.",
        ]
        parts += [
            f"Wave {span.what} ({counted(len(line.members[int(span.what) - 1]), 'device')}) "
            f"began at {self.clock(span.since)} and lasted {lasted(span.until - span.since)}."
            for span in line.waves
        ]
        parts += [
            f"Paused at {self.clock(span.since)} for {lasted(span.until - span.since)}: "
            f"{printable(span.reason)}."
            for span in line.phases
            if span.what == "paused"
        ]
        ends: dict[str, int] = {}
        for spans in line.devices.values():
            ends[spans[-1].what] = ends.get(spans[-1].what, 0) + 1
        counts = ", ".join(f"{count} {state}" for state, count in sorted(ends.items()))
        return " ".join([*parts, f"At the end: {counts}."])


def _outline(roof: list[float], floor: list[float]) -> str:
    """A closed path of steps; only where something changes there is a corner."""
    there = [f"M{LEFT} {floor[0]:.1f}V{roof[0]:.1f}"]
    for column in range(1, len(roof)):
        if roof[column] != roof[column - 1]:
            there.append(f"H{LEFT + column}V{roof[column]:.1f}")
    there.append(f"H{LEFT + len(roof)}V{floor[-1]:.1f}")
    for column in range(len(floor) - 1, 0, -1):
        if floor[column] != floor[column - 1]:
            there.append(f"H{LEFT + column}V{floor[column - 1]:.1f}")
    return "".join(there) + "Z"


def _stop(piece: AxisPiece) -> PictureBar:
    length = lasted(piece.until - piece.since)
    words = f"nothing happened for {length}; this part is shortened"
    short = " ".join(length.split()[:2])
    return PictureBar("stop", piece.left, piece.right - piece.left, words, short)
