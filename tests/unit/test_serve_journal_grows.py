"""`journal.db` across versions: what a later agent wrote is neither an error nor lost."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.journal import SCHEMA_VERSION, Journal
from edgekit.agent.serve.session.prompt import UNSENT_KEEP_SECONDS, JournalRow, Outcome
from edgekit.agent.serve.session.states import State
from tests.unit.test_serve_journal import Clocks, row

ENDED = Outcome("final", "", 200, b"{}")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def later_agent(path: Path, *statements: str) -> None:
    """What a later version does to the file."""
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def change_row(path: Path, key: str, **changes: object) -> None:
    """What a later version writes into a row."""
    with sqlite3.connect(path) as database:
        query = "SELECT row FROM prompts WHERE key = ?"
        (blob,) = database.execute(query, (key,)).fetchone()
        later = msgspec.msgpack.encode(msgspec.msgpack.decode(blob) | changes)
        database.execute("UPDATE prompts SET row = ? WHERE key = ?", (later, key))
    database.close()


def values(path: Path, query: str) -> list[object]:
    with sqlite3.connect(path) as database:
        found = [value for (value,) in database.execute(query)]
    database.close()
    return found


def keys(rows: tuple[JournalRow, ...]) -> list[str]:
    return [found.key for found in rows]


def test_a_column_of_a_later_agent_is_passed_over_and_kept(path: Path, clocks: Clocks) -> None:
    Journal(path, clocks).commit([row()], [])
    later_agent(
        path,
        "ALTER TABLE prompts ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
        "UPDATE prompts SET priority = 3",
        "ALTER TABLE checks ADD COLUMN why TEXT",
        "CREATE TABLE deliveries (key TEXT PRIMARY KEY)",
    )
    journal = Journal(path, clocks)
    assert journal.load() == (row(),)
    journal.commit([row(starts=1, state=State.RUNNING), row("alice/p2")], [])
    journal.check()
    assert keys(journal.load()) == ["alice/p1", "alice/p2"]
    assert values(path, "SELECT priority FROM prompts ORDER BY key") == [3, 0]


def test_a_higher_version_with_the_columns_we_need_is_read_and_stays(
    path: Path, clocks: Clocks
) -> None:
    Journal(path, clocks).commit([row()], [])
    assert values(path, "PRAGMA user_version") == [SCHEMA_VERSION]
    later_agent(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    journal = Journal(path, clocks)
    assert journal.load() == (row(),)
    journal.commit([row("alice/p2")], [])
    assert values(path, "PRAGMA user_version") == [SCHEMA_VERSION + 1]
    assert not path.with_name("journal.db.broken").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "paused"},
        {"state": "done"},  # without an outcome: it lies where this version does not look
        {"outcome": {"kind": "final", "code": "", "status": 200, "payload": b""}},
        {"queued_at": "noon"},
        {"reply": {"topic": "edgekit/v1/res/alice/1"}},
    ],
    ids=["state", "end without outcome", "outcome without end", "time", "reply"],
)
def test_a_row_that_only_a_later_agent_can_read_stays_as_it_is_and_costs_no_other(
    path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    Journal(path, clocks).commit([row("alice/p1"), row("alice/p2"), row("alice/p3")], [])
    change_row(path, "alice/p2", **changes)
    query = "SELECT row FROM prompts WHERE key = 'alice/p2'"
    before = values(path, query)
    journal = Journal(path, clocks)
    with caplog.at_level(logging.WARNING):
        assert keys(journal.load()) == ["alice/p1", "alice/p3"]
        journal.commit([row("alice/p4")], ["alice/p1"])
        journal.tidy()
        assert keys(journal.load()) == ["alice/p3", "alice/p4"]
    assert values(path, query) == before
    assert caplog.text.count("alice/p2") == 1


def test_a_row_that_only_a_later_agent_can_read_is_there_when_that_one_is_back(
    path: Path, clocks: Clocks
) -> None:
    Journal(path, clocks).commit([row()], [])
    change_row(path, "alice/p1", state="paused")
    clocks.passes(1000.0)
    assert Journal(path, clocks).load() == ()
    change_row(path, "alice/p1", state="accepted")
    (back,) = Journal(path, clocks).load()
    assert back.deadline - clocks.shows.monotonic == pytest.approx(60.0 - 1000.0)


@pytest.mark.parametrize(("sent", "keep_seconds"), [(False, UNSENT_KEEP_SECONDS), (True, 0.0)])
def test_a_row_that_cannot_be_read_goes_when_its_own_times_say_so(
    path: Path, clocks: Clocks, sent: bool, keep_seconds: float
) -> None:
    ended = row(state=State.DONE, outcome=ENDED, sent=sent)  # kept for 660 s after its deadline
    Journal(path, clocks).commit([ended, row("alice/p2")], [])
    change_row(path, "alice/p1", state="archived")
    clocks.passes(660.0 + keep_seconds - 1.0)
    Journal(path, clocks).load()
    assert values(path, "SELECT key FROM prompts ORDER BY key") == ["alice/p1", "alice/p2"]
    clocks.passes(1.0)
    Journal(path, clocks).load()
    assert values(path, "SELECT key FROM prompts ORDER BY key") == ["alice/p2"]


def test_a_row_without_times_that_can_be_read_stays(path: Path, clocks: Clocks) -> None:
    Journal(path, clocks).commit([row()], [])
    later_agent(path, "UPDATE prompts SET row = x'c1'")
    clocks.passes(1e9)
    assert Journal(path, clocks).load() == ()
    assert values(path, "SELECT key FROM prompts") == ["alice/p1"]


def test_a_prompt_that_is_sent_again_takes_the_place_of_a_row_that_cannot_be_read(
    path: Path, clocks: Clocks
) -> None:
    Journal(path, clocks).commit([row()], [])
    change_row(path, "alice/p1", state="paused")
    journal = Journal(path, clocks)
    assert journal.load() == ()
    journal.commit([row()], [])
    assert journal.load() == (row(),)


def test_the_log_names_no_words_of_a_prompt(
    path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    Journal(path, clocks).commit([row(payload=b"a secret")], [])
    outcome = {"kind": "final", "code": "", "status": 200, "payload": b"a secret"}
    change_row(path, "alice/p1", outcome=outcome)
    assert Journal(path, clocks).load() == ()
    assert "alice/p1" in caplog.text
    assert "secret" not in caplog.text
