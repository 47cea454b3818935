"""Windows: what a person writes, the clock on the wall, and a zone that changes its clock."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.fleet.rollout.windows.window import DAYS, parse_window

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN, fold: int = 0) -> float:
    """Unix seconds of a time on the wall."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("22:00-05:00", "22:00-05:00 Europe/Berlin"),
        ("mon-fri 22:00-05:00", "mon,tue,wed,thu,fri 22:00-05:00 Europe/Berlin"),
        ("fri-mon 01:00-02:00 America/New_York", "mon,fri,sat,sun 01:00-02:00 America/New_York"),
        ("sat,sun 00:00-24:00 UTC", "sat,sun 00:00-24:00 UTC"),
        ("22:00-23:00 or 03:00-04:00 UTC", "22:00-23:00 Europe/Berlin or 03:00-04:00 UTC"),
        ("always", "always"),
    ],
)
def test_what_a_person_writes_is_read_and_told_whole(text: str, told: str) -> None:
    assert str(parse_window(text, BERLIN)) == told
    assert parse_window(told) == parse_window(text, BERLIN)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no window"),
        ("22-5", "is no window"),
        ("22:00-05:00,", "is no window"),
        ("mon 22:00", "is no window"),
        ("mo-fr 22:00-05:00", "is no window"),
        ("moo 22:00-05:00", "is no day"),
        ("mon-foo 22:00-05:00", "is no day"),
        ("25:00-05:00", "no time of the day"),
        ("22:00-24:01", "no time of the day"),
        ("22:60-23:00", "no time of the day"),
        ("22:00-22:00", "is empty"),
        ("24:00-05:00", "is empty"),
    ],
)
def test_what_is_no_window_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_window(text, BERLIN)


def test_a_window_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="names no time zone"):
        parse_window("22:00-05:00")


@pytest.mark.parametrize(
    ("now", "is_open", "changes"),
    [
        ("2026-11-27T21:59:59", False, "2026-11-27T22:00"),  # a Friday
        ("2026-11-27T22:00:00", True, "2026-11-28T05:00"),
        ("2026-11-28T04:59:59", True, "2026-11-28T05:00"),  # belongs to Friday
        ("2026-11-28T05:00:00", False, "2026-11-30T22:00"),  # Saturday: next on Monday
        ("2026-11-29T23:00:00", False, "2026-11-30T22:00"),
        ("2026-11-30T03:00:00", False, "2026-11-30T22:00"),  # Monday's begins in the evening
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(
    now: str, is_open: bool, changes: str
) -> None:
    window = parse_window("mon-fri 22:00-05:00", BERLIN)
    assert window.is_open(at(now)) == is_open
    assert window.next_change(at(now)) == at(changes)


def test_an_hour_that_is_skipped_opens_nothing() -> None:
    """On 29 March 2026 the clock in Berlin goes from 02:00 to 03:00."""
    inside = parse_window("02:15-02:45", BERLIN)
    before = at("2026-03-29T00:00")
    assert inside.next_change(before) == at("2026-03-30T02:15")
    into = parse_window("02:30-04:00", BERLIN)
    assert into.next_change(before) == at("2026-03-29T03:00")  # the clock jumps into it
    assert into.next_change(at("2026-03-29T03:00")) == at("2026-03-29T04:00")
    only = parse_window("sun 02:15-02:45", BERLIN)
    assert only.next_change(before) == at("2026-04-05T02:15")


def test_an_hour_that_comes_twice_counts_twice() -> None:
    """On 25 October 2026 the clock in Berlin goes from 03:00 back to 02:00."""
    window = parse_window("02:30-04:00", BERLIN)
    moments, now = [], at("2026-10-25T00:00")
    for _ in range(4):
        changes = window.next_change(now)
        assert changes is not None
        moments.append(now := changes)
    assert moments == [
        at("2026-10-25T02:30"),
        at("2026-10-25T02:00", fold=1),
        at("2026-10-25T02:30", fold=1),
        at("2026-10-25T04:00"),
    ]


def test_always_never_changes() -> None:
    window = parse_window("always")
    assert window.is_open(0.0)
    assert window.next_change(0.0) is None
    assert parse_window("00:00-24:00 UTC").next_change(0.0) is None


times = st.builds(
    lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59)
)
spans = st.builds(
    lambda days, start, end, zone: f"{','.join(days)} {start}-{end} {zone}",
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=3, unique=True),
    times,
    times,
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
).filter(lambda text: text.split(" ")[1][:5] != text.split(" ")[1][6:])
# around the changes of clocks of 2026 above all
moments = st.one_of(
    st.floats(at("2026-01-01T00:00"), at("2027-01-01T00:00")),
    *(
        st.floats(at(day) - 2e5, at(day) + 2e5)
        for day in ("2026-03-08T06:00", "2026-03-29T02:00", "2026-04-05T02:00", "2026-10-25T02:00")
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(spans, min_size=1, max_size=3), moments)
def test_nothing_changes_before_the_next_change(texts: list[str], now: float) -> None:
    """Each minute until then is looked at: an oracle that knows no boundary."""
    window = parse_window(" or ".join(texts))
    changes = window.next_change(now)
    assert changes is not None
    assert window.is_open(changes) != window.is_open(now)
    minute = (now // 60 + 1) * 60
    last = min(changes, now + 2 * 86400.0)
    while minute < last:
        assert window.is_open(minute) == window.is_open(now)
        minute += 60
