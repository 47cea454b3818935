"""A rollout's journal: what was written is read, and what was changed shows."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edgekit.core.digest import Digest, encode_hook
from edgekit.core.quality import QualityReport, QualityScore
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.rollout import events
from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.device import MOVES, DeviceState, table
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.waves import RolloutPlan, Terms

PLAN = RolloutPlan(
    Digest.of(b"x"),
    [["a"], ["b", "c"]],
    dict.fromkeys("abc", "linux/arm64"),
    Terms(parallel=2, hook_before=["./check.sh", "a word"], hook_seconds=5.0),
    {"b": "mon-fri 22:00-05:00 Europe/Berlin"},
)
EVENTS = (
    events.RolloutStarted("me"),
    events.DeviceStaged("a"),
    events.DeviceAnswers("a", 30.0),
    events.ClockTicked(),
    events.DeviceGood("a"),
    events.DeviceAway("b", "no route"),
    events.DeviceFailed("c", "golden prompts"),
    events.HookEnded("exit code 1"),
    events.WindowChanged(open=False),
    events.WindowChanged(open=True, window="mon-fri 22:00-05:00 Europe/Berlin"),
    events.PauseOrdered("me", "lunch"),
    events.ResumeOrdered("me", retry_failed=True),
    events.DeviceBack("a"),
    events.AbortOrdered("me"),
    events.RollbackOrdered("me"),
    events.ClockSet(-3600.5),
    events.QualityTold("a", QualityReport("new", "old", QualityScore(4, 1, 9, 8, 0.9, 0.1, 1, 0))),
)


@pytest.fixture
def journal(tmp_path: Path) -> RolloutJournal:
    made = RolloutJournal(tmp_path / "rollout.db")
    made.create(PLAN, 1.5)
    for number, event in enumerate(EVENTS):
        made.append(event, 1764424800.123456 + number / 3)
    return made


def test_every_event_is_read_as_it_was_written(journal: RolloutJournal) -> None:
    plan, rows, head = journal.read()
    assert plan == PLAN
    assert [row.event for row in rows] == list(EVENTS)
    assert [row.at for row in rows] == [1764424800.123456 + n / 3 for n in range(len(EVENTS))]
    assert head == rows[-1].hash
    assert vars(journal.replay()) == vars(RolloutJournal(journal.path).replay())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE rows SET what = replace(CAST(what AS TEXT), 'me', 'you') WHERE number = 1",
        "UPDATE rows SET at = '3.0' WHERE number = 2",
        "DELETE FROM rows WHERE number = 3",
        "DELETE FROM rows WHERE number = 0",
        "UPDATE rows SET hash = 'abc' WHERE number = 5",
        "INSERT INTO rows SELECT 18, at, what, hash FROM rows WHERE number = 17",
    ],
)
def test_a_changed_history_shows(journal: RolloutJournal, change: str) -> None:
    with sqlite3.connect(journal.path) as db:
        db.execute(change)
    with pytest.raises(VerificationError, match="is not as it was written"):
        journal.read()


def test_a_shorter_history_has_another_head(journal: RolloutJournal) -> None:
    _, rows, head = journal.read()
    with sqlite3.connect(journal.path) as db:
        db.execute("DELETE FROM rows WHERE number = ?", (len(rows),))
    assert journal.read()[2] != head


def test_what_comes_later_is_verified_too(journal: RolloutJournal) -> None:
    count = len(EVENTS)
    assert [row.event for row in journal.since(count - 2)] == list(EVENTS[-2:])
    assert journal.since(count) == []
    with sqlite3.connect(journal.path) as db:
        what = '{"event":"rollback","by":"nobody"}'
        db.execute("INSERT INTO rows VALUES (?, '9.0', ?, 'abc')", (count + 1, what))
    with pytest.raises(VerificationError, match=f"row {count + 1} of"):
        journal.since(count)
    with sqlite3.connect(journal.path) as db:
        db.execute("DELETE FROM rows WHERE number >= ?", (count - 1,))
    with pytest.raises(VerificationError, match="is not there any more"):
        journal.since(count)


def test_the_journal_of_another_rollout_shows(tmp_path: Path) -> None:
    book = RolloutBook(tmp_path / "rollouts")
    (one, first), (two, second) = book.create(PLAN, 1.0), book.create(PLAN, 1.0)
    for made in (first, second):
        made.append(events.RolloutStarted("me"), 2.0)
        assert made.read()[0] == PLAN
    second.path.write_bytes(first.path.read_bytes())
    assert (one, two) == (1, 2)
    with pytest.raises(VerificationError, match=r"row 0 of .*2\.db"):
        second.read()
    (book.folder / "03.db").write_bytes(b"")  # no file of ours
    assert book.numbers() == [1, 2]


def test_a_journal_from_before_its_number_was_hashed_replays(tmp_path: Path) -> None:
    made = RolloutJournal(tmp_path / "3.db")
    made.create(PLAN, 1.0)
    made.append(events.RolloutStarted("me"), 2.0)
    assert made.replay().phase == "running"


def test_whatever_bit_of_the_file_flips_it_is_refused_or_nothing_has_changed(
    journal: RolloutJournal, tmp_path: Path
) -> None:
    data, told = journal.path.read_bytes(), journal.read()
    chance = random.Random(4)
    refused = 0
    for _ in range(400):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        flipped = tmp_path / "flipped.db"
        flipped.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        try:
            assert RolloutJournal(flipped).read() == told
        except VerificationError:
            refused += 1
    assert refused > 50


def test_a_file_that_cannot_be_opened_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "1.db").mkdir()
    with pytest.raises(EdgekitError, match="cannot be used") as raised:
        RolloutJournal(tmp_path / "1.db").read()
    assert raised.value.exit_code == 1


def test_a_journal_from_before_quality_replays(tmp_path: Path) -> None:
    """As edgekit wrote it: its terms have no word of quality, and nobody is asked for any."""
    path = tmp_path / "1.db"
    made = RolloutJournal(path)
    made.create(PLAN, 1.0)
    plan = msgspec.json.decode(msgspec.json.encode(PLAN, enc_hook=encode_hook))
    kept = {name: value for name, value in plan["terms"].items() if "quality" not in name}
    assert len(kept) < len(plan["terms"])
    what = msgspec.json.encode(plan | {"terms": kept})
    with sqlite3.connect(path) as db:
        (at,) = db.execute("SELECT at FROM rows").fetchone()
        told = hashlib.sha256(f" {at} ".encode() + what).hexdigest()
        db.execute("UPDATE rows SET what = ?, hash = ?", (what, told))
    assert RolloutJournal(path).read()[0] == PLAN
    assert not RolloutJournal(path).replay().plan.terms.quality


def test_a_plan_is_written_once(journal: RolloutJournal, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="holds a rollout already"):
        journal.create(PLAN, 2.0)
    with pytest.raises(EdgekitError, match="there is no rollout"):
        RolloutJournal(tmp_path / "none.db").read()


def test_every_event_is_in_the_list_of_events() -> None:
    assert {type(event) for event in EVENTS} == set(events.RolloutEvent.__subclasses__())


def test_the_table_has_a_way_out_of_every_standing_but_the_last() -> None:
    assert {state for state, _ in MOVES} == set(DeviceState) - {DeviceState.BACK}
    assert table().count("\n") > len(DeviceState)
