"""What `edgekit top` shows: rows, their order, and a table of any width."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edgekit.cli.render import harmless, one_line
from edgekit.cli.talk.top.look import FleetLook
from edgekit.cli.talk.top.rows import SORTS, TopRow, chosen, in_order, row, summary
from edgekit.cli.talk.top.table import (
    COLUMNS,
    Segment,
    TopView,
    fitting,
    lasted,
    pressed,
    screen,
    table,
)  # fmt: skip
from edgekit.cli.talk.watching import Sighting, sighted
from edgekit.core.protocol import topics
from edgekit.errors import UsageError
from edgekit.fleet.inventory import Device
from edgekit.gateway.catalog import Served
from edgekit.gateway.catalog import heard as note

NOW, BEGAN = 10_000.0, 9_990.0


def served(name: str = "pi", state: str = "ready", **more: Any) -> Served:
    return Served(name, "toy", "1", state=state, **more)


# --- a row ----------------------------------------------------------------------------------------
def test_a_row_says_what_the_status_says() -> None:
    said = served(queue=2, active=1, tok_s=31.4, temp_c=61, mem_free_mb=900, since=9_000)
    found = row("pi", Sighting(said, NOW), NOW, BEGAN)
    assert (found.state, found.queue, found.active, found.tok_s) == ("ready", 2, 1, 31.4)
    assert (found.temp_c, found.mem_free_mb, found.since) == (61, 900, 9_000)


def test_a_device_that_says_nothing_any_more_is_silent() -> None:
    assert row("pi", Sighting(served(), NOW - 76), NOW, BEGAN).state == "silent"
    assert row("pi", Sighting(served(), NOW - 76), NOW, BEGAN).since == NOW - 76
    assert row("pi", Sighting(served(), NOW - 74), NOW, BEGAN).state == "ready"
    kept = Sighting(served())  # only the broker has told it: the silence is as long as we listen
    assert row("pi", kept, NOW, NOW - 76).state == "silent"
    assert row("pi", kept, NOW, NOW - 10).state == "ready"
    assert row("pi", Sighting(served(state="lost"), NOW - 76), NOW, BEGAN).state == "lost"


def test_a_device_of_the_file_that_the_broker_does_not_know_is_unseen() -> None:
    assert row("pi", None, NOW, BEGAN) == TopRow("pi", "unseen")
    assert row("pi", Sighting(Served("pi", "toy")), NOW, BEGAN).state == "unseen"


def test_since_when_a_device_is_lost_is_known_to_who_saw_it() -> None:
    first = sighted(None, served(), 100, kept=True, status=True)
    assert first == Sighting(served())
    again = sighted(first, served(), 130, kept=False, status=True)
    assert (again.heard, again.changed) == (130, 0)
    lost = sighted(again, served(state="lost"), 150, kept=False, status=True)
    assert (lost.heard, lost.changed) == (150, 150)
    card = sighted(lost, served(state="lost", slots=2), 160, kept=False, status=False)
    assert (card.heard, card.changed) == (150, 150)
    assert row("pi", lost, NOW, BEGAN).since == 150


@pytest.mark.parametrize("field", ["mem_free_mb", "mem_total_mb", "since", "queue", "temp_c"])
def test_a_number_that_no_device_can_mean_is_not_believed(field: str) -> None:
    known: dict[str, Served] = {}
    said = f'{{"state": "ready", "{field}": {"9" * 400}}}'.encode()
    note(known, topics.status_topic("pi"), said)
    assert known == {}


def test_without_the_broker_the_devices_are_as_they_were_then() -> None:
    seen = {"pi": Sighting(served(), NOW)}
    watch: Any = SimpleNamespace(known={"pi": served()}, seen=seen, disconnected_since=NOW + 10)
    assert FleetLook(watch, None, []).rows(NOW + 500, TopView())[0].state == "ready"


def test_a_device_forges_no_row() -> None:
    forger = TopRow("pi", "ready", model="m\npi-9\tready", version="1")
    assert not {"\n", "\t"} & set("".join(texts(table([forger], NOW, None, one_line))))


# --- which ----------------------------------------------------------------------------------------
def test_words_mean_devices_of_the_file_and_of_the_broker() -> None:
    devices = {
        "pi-1": Device("local:a", tags=["hot"], site="hall"), "pi-2": Device("local:b"),
    }  # fmt: skip
    known = {"pi-1": served(), "nano": served()}

    def of(*words: str) -> set[str]:
        return set(chosen(words, devices, {"both": ["pi-1", "pi-2"]}, known))

    assert of() == {"pi-1", "pi-2", "nano"}
    assert of("both") == {"pi-1", "pi-2"}
    assert of("tag=hot") == of("site=hall") == {"pi-1"}
    assert of("*", "!pi-1") == {"pi-2", "nano"}
    assert set(chosen(["n*"], {}, {}, known)) == {"nano"}
    with pytest.raises(UsageError) as unknown:
        of("nanoo")
    assert "did you mean 'nano'?" in unknown.value.why


# --- order ----------------------------------------------------------------------------------------
ROWS = [
    TopRow("pi-10", "ready", tok_s=10.0, temp_c=40, mem_free_mb=100, release="b", since=50),
    TopRow("pi-2", "busy", queue=1, active=1, tok_s=30.0, temp_c=70, release="a", since=90),
    TopRow("pi-1", "lost", since=10),
    TopRow("x", "silent", mem_free_mb=50),
]


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("device", "pi-1 pi-2 pi-10 x"),
        ("state", "pi-1 x pi-2 pi-10"),
        ("queue", "pi-2 pi-1 pi-10 x"),
        ("tokens", "pi-2 pi-10 pi-1 x"),
        ("temp", "pi-2 pi-10 pi-1 x"),
        ("memory", "x pi-10 pi-1 pi-2"),
        ("release", "pi-2 pi-10 pi-1 x"),
        ("since", "pi-2 pi-10 pi-1 x"),
    ],
)
def test_what_one_looks_for_comes_first(sort: str, names: str) -> None:
    found = [each.device for each in in_order(ROWS, sort, reverse=False)]
    assert found == names.split()
    assert [each.device for each in in_order(ROWS, sort, reverse=True)] == found[::-1]


def test_every_order_is_tried() -> None:
    assert set(SORTS) == {
        "device",
        "state",
        "queue",
        "tokens",
        "temp",
        "memory",
        "release",
        "since",
    }
    assert {column.sort for column in COLUMNS} - {""} == set(SORTS)


def test_a_state_that_is_not_known_comes_first() -> None:
    strange = TopRow("z", "dreaming")
    assert in_order([*ROWS, strange], "state", reverse=False)[0] == strange


def test_the_sum() -> None:
    assert summary(ROWS) == (
        "4 devices: 1 ready, 1 busy, 1 silent, 1 lost; 1 prompts wait; 30 tokens/s"
    )
    assert summary([]) == "0 devices: none; 0 prompts wait"


# --- the table ------------------------------------------------------------------------------------
def texts(lines: list[list[Segment]]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


FULL = TopRow(
    "pi-1", "degraded", 2, 1, 31.4, 61, 900, 7800, "sha256:" + "a1" * 32, "toy", "1", (), 6_400,
    "thermal",
)  # fmt: skip


def test_a_wide_table_has_everything() -> None:
    head, line = texts(table([FULL], NOW, None, harmless))
    assert head.split() == [
        *("device", "state", "why", "runs", "waits", "tok/s", "temp", "since", "free", "memory"),
        *("release", "model"),
    ]
    assert line.split() == [
        *("pi-1", "degraded", "thermal", "1", "2", "31", "61°", "1h", "0.9", "of", "7.6", "GB"),
        *("a1a1a1a1a1a1", "toy:1"),
    ]


@pytest.mark.parametrize("width", [*range(1, 130, 7), 40, 80])
def test_no_line_is_wider_than_the_screen_but_the_name_is_there(width: int) -> None:
    lines = texts(table([FULL, *ROWS], NOW, width, harmless))
    assert all(len(line) <= max(width, len("device")) for line in lines)
    assert lines[1].startswith("pi-1")


def test_forty_columns_show_how_a_device_is() -> None:
    head = texts(table([msgspec.structs.replace(FULL, reason="")], NOW, 40, harmless))[0]
    assert head.split() == ["device", "state", "waits", "tok/s", "temp"]
    assert fitting([6] * len(COLUMNS), None) == list(range(len(COLUMNS)))


def test_names_of_strangers_are_harmless_and_cut() -> None:
    hostile = TopRow("\x1b[2J" + "x" * 100, "ready")
    line = texts(table([hostile], NOW, None, harmless))[1]
    assert "\x1b" not in line
    assert "x…" in line


def test_a_screen_is_as_high_as_the_window_and_no_higher() -> None:
    many = [TopRow(f"pi-{n}", "ready") for n in range(1000)]
    for height in (1, 2, 3, 4, 24, 60):
        lines = texts(screen(many, summary(many), TopView(top=990), NOW, (80, height), harmless))
        assert len(lines) == height
    assert "991-1000 of 1000" in lines[-1]
    few = texts(screen(many[:2], "two", TopView("temp", reverse=True), NOW, (80, 24), harmless))
    assert (few[0], len(few)) == ("two", 24)
    assert few[-1] == "by temp, reversed; < > sort, r reverse, q quit"


# --- keys -----------------------------------------------------------------------------------------
def test_keys_move_sort_and_end() -> None:
    def after(*keys: str) -> TopView:
        view = TopView()
        for key in keys:
            moved = pressed(view, key, 100, 10)
            assert moved is not None
            view = moved
        return view

    assert after("\x1b[B", "j", "k").top == 1
    assert after("\x1b[A").top == 0
    assert after(" ", " ").top == 20
    assert after("G").top == after("\x1b[F", "j", "\x1b[6~").top == 90
    assert after("G", "g").top == 0
    assert after(">").sort == "state"
    assert after("<").sort == "since"
    assert after("j", ">", "<") == TopView()
    assert after("r").reverse
    assert not after("r", "R").reverse
    assert after("?", "\x1b", "é") == TopView()
    assert pressed(TopView(top=90), "", 5, 10) == TopView()  # devices were forgotten
    assert pressed(TopView(), "q", 100, 10) is None


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-100, ""), (-5, "0s"), (59, "59s"), (61, "1m"), (7200, "2h"), (5 * 86400, "5d")],
)
def test_how_long(seconds: float, told: str) -> None:
    assert lasted(seconds) == told
