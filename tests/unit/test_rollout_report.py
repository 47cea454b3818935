"""The report of a rollout: a page that needs nothing, tells the journal, and draws it truly."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from edgekit.fleet.rollout import events
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.journal import RolloutRow
from edgekit.fleet.rollout.report.axis import STOP_WIDTH, axis
from edgekit.fleet.rollout.report.page import page
from edgekit.fleet.rollout.report.picture import LEFT, MOST_ROWS, RIGHT, Picture, picture
from edgekit.fleet.rollout.telling.timeline import Follower, timeline
from edgekit.fleet.rollout.telling.told import lasted
from edgekit.fleet.rollout.waves import RolloutPlan, Terms
from tests.fakes import rollout_stories as stories
from tests.fakes.rollout_fleet import FakeFleet

ZONE = timezone(timedelta(hours=1))
STORIES = (
    stories.good,
    stories.bad_canary,
    stories.paused,
    stories.aborted,
    stories.two_nights,
    lambda: stories.fleet(3),  # planned, without one event
    lambda: stories.paused(150),
)


def rows_of(made: FakeFleet) -> list[RolloutRow]:
    return [RolloutRow(at, event, f"{n:064x}") for n, (event, at) in enumerate(made.journal)]


def html_of(made: FakeFleet, **more: str) -> str:
    now = made.now + 5
    return page(3, made.plan, rows_of(made), head="ab" * 32, now=now, zone=ZONE, **more)


def drawn(made: FakeFleet) -> Picture:
    return picture(timeline(Follower(made.plan), rows_of(made), made.now + 5), ZONE)


def svg(html: str) -> ElementTree.Element:
    """The picture, read by a parser of XML."""
    (found,) = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    return ElementTree.fromstring(found)


class Reader(HTMLParser):
    """Collects tags, attributes and text, and whether what is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "rect", "path", "line"):
            if tag in ("td", "tr") and self.open[-1] == "td":  # its end may be left out
                self.open.pop()
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] in ("td", "tr") and tag not in ("td", "tr"):
            self.open.pop()
        if tag not in ("rect", "path", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("story", STORIES)
def test_a_page_is_whole_and_needs_nothing(story: object) -> None:
    made = story()  # type: ignore[operator]  # a story
    html = html_of(made)
    read = Reader(html)
    assert read.open == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(read.tags)
    names = {name for name, _ in read.attributes}
    assert not {name for name in names if name.startswith("on")} | ({"src", "href"} & names)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert "default-src 'none'" in html
    assert f"Rollout 3 {made.rollout.phase}" in " ".join(read.text.split())
    assert "ab" * 32 in html
    root = svg(html)
    assert root.attrib["role"] == "img"
    title, text = root.attrib["aria-labelledby"].split()
    by_id = {each.attrib["id"]: each.text for each in root.iter() if "id" in each.attrib}
    assert by_id[title] == "Rollout 3 over time"
    assert f"{len(made.devices)} device" in str(by_id[text])


@pytest.mark.parametrize("story", STORIES)
def test_every_device_has_its_states_one_after_the_other(story: object) -> None:
    made = story()  # type: ignore[operator]  # a story
    follower = Follower(made.plan)
    line = timeline(follower, rows_of(made), made.now + 5)
    assert vars(follower.rollout) == vars(made.rollout)
    tracks = [*line.devices.values(), line.phases, *([line.waves] if line.waves else [])]
    for spans in tracks:
        assert (spans[0].since, spans[-1].until) == (line.begin, line.end)
        for one, other in pairwise(spans):
            assert one.until == other.since > one.since
    for name, device in made.rollout.devices.items():
        assert line.devices[name][-1].what == device.state
    assert line.phases[-1].what == made.rollout.phase
    assert sorted(name for names in line.members for name in names) == sorted(made.devices)


@pytest.mark.parametrize("story", [story for story in STORIES if len(story().devices) <= MOST_ROWS])
def test_a_small_fleet_has_a_row_for_each_device(story: object) -> None:
    made = story()  # type: ignore[operator]  # a story
    shown = drawn(made)
    rows = {row.label: row for row in shown.rows if not row.heading}
    assert set(rows) == set(made.devices)
    for name, row in rows.items():
        state = made.rollout.devices[name].state
        assert row.bars[-1].kind == f"state-{state.replace(' ', '-')}"
        assert row.bars[0].x == LEFT
        assert row.bars[-1].x + row.bars[-1].width == pytest.approx(RIGHT)
        for one, other in pairwise(row.bars):
            assert one.x + one.width <= other.x + 1.5  # a short one is seen, too
    assert shown.pauses or "paused" not in {span.kind for span in shown.phases}


def test_a_large_fleet_has_a_band_for_each_wave_in_which_every_device_is_drawn() -> None:
    made = stories.large(200)
    shown = drawn(made)
    assert [band.devices for band in shown.bands] == [len(wave) for wave in made.rollout.waves]
    for number, band in enumerate(shown.bands):
        heights = dict.fromkeys(range(LEFT, RIGHT), 0.0)
        ends: dict[str, float] = {}
        for area in band.areas:
            columns = height_by_column(area.path)
            for column, height in columns.items():
                heights[column] += height
            ends[area.kind] = columns[RIGHT - 1]
        assert all(abs(height - band.height) < 1.5 for height in heights.values())
        for state in DeviceState:
            there = [made.rollout.devices[name].state for name in made.rollout.waves[number]]
            share = there.count(state) / len(there) * band.height
            assert ends.get(f"state-{state.replace(' ', '-')}", 0.0) == pytest.approx(
                share, abs=0.3
            )
    troubled = {row.label for row in shown.rows if not row.heading}
    failed = {n for n, d in made.rollout.devices.items() if d.state == DeviceState.FAILED}
    assert failed
    assert failed <= troubled


def height_by_column(path: str) -> dict[int, float]:
    """How high an area of steps is over each pixel."""
    roof: dict[int, float] = {}
    floor: dict[int, float] = {}
    x, y = 0.0, 0.0
    for letter, numbers in re.findall(r"([MHV])([-\d. ]+)", path):
        if letter == "V":
            y = float(numbers)
        elif letter == "M":
            x, y = (float(number) for number in numbers.split())
        else:
            after = float(numbers)
            side = roof if after > x else floor
            side |= dict.fromkeys(range(int(min(x, after)), int(max(x, after))), y)
            x = after
    for column in range(int(LEFT), int(x)):  # the rest of the floor up to the beginning
        floor.setdefault(column, y)
    start = float(re.findall(r"M\d+ ([-\d.]+)", path)[0])
    floor |= {c: start for c in range(LEFT, int(x)) if c not in floor}
    return {column: floor[column] - height for column, height in roof.items()}


def test_a_thousand_devices_stay_small_and_readable() -> None:
    """Each has the events of a rollout that went well, written down without a machine."""
    names = [f"site-{n % 7}-device-{n:04}" for n in range(1000)]
    plan = RolloutPlan(stories.RELEASE, [names[:4], names[4:]], dict.fromkeys(names, "linux/arm64"))
    told: list[events.RolloutEvent] = [events.RolloutStarted("ada@desk")]
    for name in names:
        told += [events.DeviceStaged(name), events.DeviceAnswers(name, 30.0)]
        told += [events.DeviceGood(name)]
    rows = [RolloutRow(stories.BEGIN + n, e, f"{n:064x}") for n, e in enumerate(told)]
    html = page(3, plan, rows, head="ab" * 32, now=rows[-1].at, zone=ZONE)
    assert len(html.encode()) < 2_000_000
    assert float(svg(html).attrib["viewBox"].split()[3]) < 2000
    read = Reader(html)
    assert read.tags.count("tr") > 1000 + len(rows)
    assert all(name in read.text for name in names)


def test_what_devices_and_people_say_stays_text() -> None:
    hostile = 'x"><script>alert(1)</script>\x1b[31m\u202e'
    name = '<img src=x onerror="a()">'
    plan = RolloutPlan(stories.RELEASE, [[name]], {name: hostile})
    told = [
        events.RolloutStarted(hostile),
        events.DeviceFailed(name, hostile),
        events.PauseOrdered(hostile, hostile),
    ]
    rows = [RolloutRow(10.0 + n, event, "0" * 64) for n, event in enumerate(told)]
    html = page(1, plan, rows, head="0" * 64, now=20.0, zone=ZONE, release=hostile)
    read = Reader(html)
    assert "script" not in read.tags
    assert "img" not in read.tags
    assert "alert(1)" in read.text
    svg(html)


def test_the_terms_and_windows_are_told_in_words() -> None:
    terms = Terms(confirm=True, hook_after=["./check it.sh", "--site"], soak_seconds=600.0)
    windows = {"a": "22:00-05:00 UTC", "b": "22:00-05:00 UTC"}
    plan = RolloutPlan(stories.RELEASE, [["a", "b"]], dict.fromkeys("ab", "x"), terms, windows)
    html = page(1, plan, [], head="0" * 64, now=1.0, zone=ZONE)
    cells = [unescape(cell) for cell in re.findall(r"<td[^>]*>([^<]*)</td>", html)]
    told = dict(pairwise(cells))
    assert told["waits for a word after each wave"] == "yes"
    assert told["brings the bytes and does not switch"] == "no"
    assert told["command after each wave"] == "'./check it.sh' --site"
    assert told["command before each wave"] == "none"
    assert told["seconds from a wave's last good device to the next wave"] == "600"
    assert told["switch only 22:00-05:00 UTC"] == "2 devices"


def test_a_night_is_shortened_and_says_how_long_it_was() -> None:
    made = stories.two_nights()
    shown = drawn(made)
    assert [stop.label for stop in shown.stops] == ["15 h", "15 h", "30 min"]
    assert all(stop.width == pytest.approx(STOP_WIDTH) for stop in shown.stops)
    assert [order.order for order in shown.orders] == ["resume", "resume", "rollback"]
    assert len(shown.pauses) == 2
    assert "Paused at 15:00:53 for 15 h: wave 1 went well and waits for a word." in shown.said
    assert {tick.day for tick in shown.ticks} == {"", "2025-11-29", "2025-11-30"}


def test_an_axis_keeps_the_order_of_times_and_its_ends() -> None:
    times = [0.0, 1.0, 2.0, 50.0, 400.0, 401.0, 90_000.0, 90_010.0]
    made = axis(0.0, 90_020.0, times, 100.0, 900.0)
    places = [made.x(at) for at in [*times, 90_020.0]]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (100.0, 900.0)
    stops = [(piece.since, piece.until) for piece in made.pieces if piece.shortened]
    assert stops == [(50.0, 400.0), (401.0, 90_000.0)]
    assert made.x(-5.0) == 100.0
    assert made.x(99_999.0) == 900.0


@pytest.mark.parametrize("seconds", [0.0, 1.0, 45.0, 3_000.0, 40_000.0, 3_000_000.0])
def test_an_axis_has_marks_that_do_not_touch(seconds: float) -> None:
    ticks = axis(stories.BEGIN, stories.BEGIN + seconds, [], 100.0, 900.0).ticks(ZONE)
    assert 1 <= len(ticks) <= 10
    assert ticks[0].day == "2025-11-29" or seconds > 86_400
    assert all(other.x - one.x >= 48 for one, other in pairwise(ticks))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.25, "0.2 s"), (59.4, "59 s"), (60.0, "1 min"), (61.0, "1 min 1 s"),
        (3600.0, "1 h"), (54_060.0, "15 h 1 min"), (90_000.0, "1 d 1 h"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units(seconds: float, words: str) -> None:
    assert lasted(seconds) == words
