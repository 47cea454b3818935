"""The journal's file: what is in it after a restart, a reboot, a clock that jumps."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from edgekit.agent.serve.loop.journal import (
    BROKEN_KEEP_SECONDS,
    BUSY_SECONDS,
    Journal,
    Moment,
    StorageError,
)
from edgekit.agent.serve.session.prompt import JournalRow, Outcome
from edgekit.agent.serve.session.states import State
from edgekit.core.protocol import wire

REPLY = wire.ReplyTo("edgekit/v1/res/alice/1", b"\x00c", "p1", "pi", final_only=False)


BEGINNING = Moment(monotonic=100.0, boot=150.0, unix=1e9, boot_id="one")


@dataclass
class Clocks:
    """What the device's clocks show; the test moves them."""

    shows: Moment = BEGINNING

    def __call__(self) -> Moment:
        return self.shows

    def passes(self, seconds: float, *, asleep: float = 0.0, set_by: float = 0.0) -> None:
        """Time goes by; the device sleeps in it, and somebody sets the wall clock."""
        now = self.shows
        self.shows = replace(
            now,
            monotonic=now.monotonic + seconds - asleep,
            boot=now.boot + seconds,
            unix=now.unix + seconds + set_by,
        )

    def reboot(self, *, unix: float) -> None:
        """All but the wall clock begin again."""
        self.shows = Moment(monotonic=5.0, boot=5.0, unix=unix, boot_id="two")


def row(key: str = "alice/p1", **changes: object) -> JournalRow:
    made = JournalRow(key, "alice", State.ACCEPTED, REPLY, b"h", b"{}", 100.0, 160.0, 760.0)
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_what_was_committed_is_there_again_whole(path: Path, clocks: Clocks) -> None:
    ended = row(
        "alice/p2",
        state=State.DONE,
        payload=b"",
        queued_at=99.0,
        starts=2,
        deaths=1,
        outcome=Outcome("final", "", 200, b'{"text": "\xc3\xa9"}'),
        sent=True,
    )
    Journal(path, clocks).commit([row(), ended, row("alice/gone")], [])
    Journal(path, clocks).commit([], ["alice/gone", "alice/never"])
    assert Journal(path, clocks).load() == (ended, row())


@pytest.mark.parametrize("encoding", ["cbor", "envelope"])
def test_how_a_requester_speaks_is_kept(path: Path, clocks: Clocks, encoding: str) -> None:
    kept = row(reply=msgspec.structs.replace(REPLY, encoding=encoding))
    Journal(path, clocks).commit([kept], [])
    assert Journal(path, clocks).load() == (kept,)


def test_a_row_of_an_agent_that_knew_one_encoding_is_read(path: Path, clocks: Clocks) -> None:
    journal = Journal(path, clocks)
    journal.commit([row()], [])
    with sqlite3.connect(path) as database:
        (blob,) = database.execute("SELECT row FROM prompts").fetchone()
        old = msgspec.msgpack.decode(blob)
        assert old["reply"].pop("encoding") == ""
        database.execute("UPDATE prompts SET row = ?", (msgspec.msgpack.encode(old),))
    assert journal.load() == (row(),)


def test_a_commit_is_all_or_nothing(path: Path, clocks: Clocks) -> None:
    journal = Journal(path, clocks)
    journal.commit([row()], [])
    with pytest.raises(StorageError):
        journal.commit([row("alice/p2"), msgspec.structs.replace(row(), key=None)], ["alice/p1"])
    assert journal.load() == (row(),)


def test_prompts_are_nobody_else_s_and_a_commit_waits_for_the_disk(path: Path) -> None:
    journal = Journal(path)
    journal.commit([row()], [])
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600
    database = journal._open()
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


# --- whose words are in the files -------------------------------------------------------------
SECRET = b"a secret of somebody" * 500  # of some pages
ENDED = row(outcome=Outcome("final", "", 200, b"{}"), payload=b"", state=State.DONE)


def secret_in(path: Path) -> list[str]:
    """Which of the journal's files have it."""
    files = sorted(path.parent.glob("journal.db*"))
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    return [file.name for file in files if b"secret" in file.read_bytes()]


def test_words_of_a_prompt_that_ended_are_gone_with_the_next_tick(path: Path) -> None:
    journal = Journal(path)
    journal.commit([row(payload=SECRET)], [])
    journal.tidy()
    journal.commit([ENDED], [])
    assert secret_in(path) == ["journal.db"]
    journal.tidy()
    assert secret_in(path) == []
    assert journal.load() != ()


def test_nothing_of_what_was_forgotten_is_left_in_any_of_the_files(path: Path) -> None:
    journal = Journal(path)
    told = msgspec.structs.replace(ENDED, outcome=Outcome("final", "", 200, SECRET))
    journal.commit([told, row("alice/p2")], [])
    journal.tidy()
    assert secret_in(path) == ["journal.db"]
    journal.commit([], ["alice/p1"])
    journal.tidy()
    assert secret_in(path) == []
    assert len(journal.load()) == 1


def test_words_that_an_agent_left_when_it_was_killed_go_with_the_first_tick(path: Path) -> None:
    killed = Journal(path)
    killed.commit([row(payload=SECRET)], [])
    killed.commit([ENDED], [])
    found = path.parent / "found" / path.name
    found.parent.mkdir()
    for file in path.parent.glob("journal.db*"):
        shutil.copy(file, found.parent)
    journal = Journal(found)
    journal.load()
    assert secret_in(found) == ["journal.db-wal"]
    journal.tidy()
    assert secret_in(found) == []


def test_no_commit_pays_for_an_empty_wal_and_a_tick_only_after_words_were_removed(
    path: Path,
) -> None:
    journal = Journal(path)
    wal = path.with_name("journal.db-wal")
    journal.commit([row(f"alice/p{n}") for n in range(4)], [])
    journal.tidy()  # the first one does not know what was before
    for records, forgotten, removes in (
        ([row("alice/p5")], [], False),
        ([row("alice/p5", starts=1, state=State.RUNNING)], [], False),
        ([ENDED], [], True),
        ([], ["alice/p2"], True),
    ):
        journal.commit(records, forgotten)
        assert wal.stat().st_size > 0
        journal.tidy()
        assert (wal.stat().st_size == 0) == removes


def test_a_reader_holds_up_neither_the_agent_nor_the_next_tick_s_try(path: Path) -> None:
    journal = Journal(path)
    journal.commit([row(payload=SECRET)], [])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM prompts").fetchall()
    journal.commit([ENDED], [])
    began = time.monotonic()
    journal.tidy()
    assert time.monotonic() - began < BUSY_SECONDS / 2
    assert secret_in(path) != []
    assert journal._open().execute("PRAGMA busy_timeout").fetchone() == (BUSY_SECONDS * 1000,)
    reader.execute("ROLLBACK")
    journal.tidy()
    assert secret_in(path) == []


@pytest.mark.parametrize(("asleep", "set_by"), [(0, 0), (15, 0), (0, 1e6), (0, -1e6)])
def test_on_the_same_boot_only_true_time_counts(
    path: Path, clocks: Clocks, asleep: float, set_by: float
) -> None:
    Journal(path, clocks).commit([row()], [])
    clocks.passes(20.0, asleep=asleep, set_by=set_by)
    (found,) = Journal(path, clocks).load()
    now = clocks.shows.monotonic
    assert found.deadline - now == pytest.approx(40.0)
    assert found.keep_until - now == pytest.approx(640.0)
    assert now - found.queued_at == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("unix_passed", "left"),
    [(20.0, 40.0), (-1e6, 60.0), (1e6, 60.0 - 1e6), (0.0, 60.0)],
    ids=["true", "set back", "set forward", "no real-time clock"],
)
def test_after_a_reboot_the_wall_clock_counts_but_never_gives_time(
    path: Path, clocks: Clocks, unix_passed: float, left: float
) -> None:
    Journal(path, clocks).commit([row()], [])
    clocks.reboot(unix=1e9 + unix_passed)
    (found,) = Journal(path, clocks).load()
    assert found.deadline - clocks.shows.monotonic == pytest.approx(left)


def test_one_broken_journal_is_kept_and_for_a_day(path: Path, clocks: Clocks) -> None:
    broken = path.with_name("journal.db.broken")
    for text in (b"an old one" * 100, b"a secret, no database" * 100):
        path.write_bytes(text)
        path.chmod(0o644)
        journal = Journal(path, clocks)
        journal.load()
        journal.close()
    assert broken.read_bytes() == text
    journal.commit([row()], [])
    assert secret_in(path) == ["journal.db.broken"]
    clocks.passes(BROKEN_KEEP_SECONDS - 1)
    journal.tidy()
    assert broken.exists()
    clocks.passes(1)
    journal.tidy()
    assert not broken.exists()


def test_a_file_that_is_no_database_is_put_aside_and_the_journal_begins_anew(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    journal = Journal(path)
    assert journal.load() == ()
    assert path.with_name("journal.db.broken").read_bytes().startswith(b"not a database")
    journal.commit([row()], [])
    assert len(Journal(path).load()) == 1


def test_a_journal_of_another_version_is_put_aside(path: Path) -> None:
    Journal(path).commit([row()], [])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
        database.execute("ALTER TABLE prompts RENAME COLUMN row TO body")
    assert Journal(path).load() == ()
    assert path.with_name("journal.db.broken").exists()


def test_a_row_that_cannot_be_read_costs_no_other(path: Path, clocks: Clocks) -> None:
    journal = Journal(path, clocks)
    journal.commit([row("alice/p1"), row("alice/p2")], [])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE prompts SET row = x'c1' WHERE key = 'alice/p1'")
    for _ in range(2):
        assert [found.key for found in Journal(path, clocks).load()] == ["alice/p2"]


def test_a_row_of_a_later_agent_is_read_without_what_is_not_known(
    path: Path, clocks: Clocks
) -> None:
    Journal(path, clocks).commit([row()], [])
    with sqlite3.connect(path) as database:
        (blob,) = database.execute("SELECT row FROM prompts").fetchone()
        later = msgspec.msgpack.decode(blob) | {"priority": 3}
        database.execute("UPDATE prompts SET row = ?", (msgspec.msgpack.encode(later),))
    assert Journal(path, clocks).load() == (row(),)


def test_a_folder_that_is_not_there_is_a_storage_error_and_works_once_it_is(path: Path) -> None:
    journal = Journal(path.parent / "missing" / "journal.db")
    for call in (journal.load, journal.check, lambda: journal.commit([row()], [])):
        with pytest.raises(StorageError):
            call()
    (path.parent / "missing").mkdir()
    journal.check()
    journal.commit([row()], [])
    assert len(journal.load()) == 1


def test_a_writer_that_holds_the_file_is_a_storage_error(path: Path) -> None:
    Journal(path).commit([row()], [])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal = Journal(path, busy_seconds=0.1)
    with pytest.raises(StorageError, match="journal") as caught:
        journal.commit([row("alice/p2")], [])
    assert "locked" in caught.value.why
    other.execute("ROLLBACK")
    journal.commit([row("alice/p2")], [])
    assert len(journal.load()) == 2
