"""What the page shows of a project, and what it leaves out."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edgekit.cli.project import Project, ProjectConfig
from edgekit.cli.talk.facts import NEWEST, reader_of
from edgekit.errors import EdgekitError
from edgekit.fleet.rollout.book import holding
from edgekit.gateway.page import facts
from edgekit.gateway.page.told import ProjectTold
from tests.fakes import rollout_stories as stories


@pytest.fixture
def here(tmp_path: Path) -> Project:
    return Project(tmp_path, ProjectConfig())


def test_a_folder_that_is_no_project_has_nothing(here: Project) -> None:
    assert reader_of(here)() == ProjectTold()
    assert not (here.folder / ".edgekit").exists()


def test_rollouts_are_told_without_the_people_and_devices_in_them(here: Project) -> None:
    read = reader_of(here)
    story = stories.paused(24)
    number, journal = here.rollouts.create(story.plan, stories.BEGIN)
    (before,) = read().rollouts
    assert (before.number, before.phase, before.held) == (number, "planned", False)
    stories.write(journal, story)
    (found,) = read().rollouts
    assert found.phase == "paused"
    assert (found.wave, found.waves) == (3, 3)
    assert sum(found.counts.values()) == 24
    assert found.counts["good"] >= 1
    text = msgspec.json.encode(found).decode()
    assert stories.BY not in text
    assert not any(name in text for name in story.plan.kinds)
    with holding(journal, stories.BY):
        assert read().rollouts[0].held
    assert not read().rollouts[0].held


def test_a_journal_that_did_not_change_is_not_read_again(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader_of(here)
    here.rollouts.create(stories.fleet().plan, stories.BEGIN)
    first = read()
    monkeypatch.setattr("edgekit.cli.talk.facts.read", lambda *_: pytest.fail("read again"))
    assert read() == first


def test_the_newest_come_first_and_a_damaged_one_is_left_out(here: Project) -> None:
    for _ in range(NEWEST + 2):
        here.rollouts.create(stories.fleet().plan, stories.BEGIN)
    newest = NEWEST + 2
    (here.rollouts.folder / f"{newest - 1}.db").write_bytes(b"no database")
    found = [each.number for each in reader_of(here)().rollouts]
    assert found == [newest, *range(newest - 2, newest - NEWEST, -1)]


def test_groups_are_those_of_fleet_toml(here: Project) -> None:
    (here.folder / "fleet.toml").write_text(
        '[devices.pi-1]\naddress = "ssh:pi-1"\n[devices.pi-2]\naddress = "ssh:pi-2"\n'
        '[groups]\nkitchen = ["pi-1", "pi-2"]\n'
    )
    assert reader_of(here)().groups == {"kitchen": ["pi-1", "pi-2"]}
    (here.folder / "fleet.toml").write_text("[devices\n")
    assert reader_of(here)().groups == {}


def test_a_fleet_toml_that_was_broken_is_read_again_once_it_is_mended(here: Project) -> None:
    file = here.folder / "fleet.toml"
    file.write_text("[devices\n")
    read = reader_of(here)
    assert read().groups == {}
    file.write_text('[devices.pi-1]\naddress = "ssh:pi-1"\n[groups]\nkitchen = ["pi-1"]\n')
    assert read().groups == {"kitchen": ["pi-1"]}
    file.write_text("[devices\n")
    assert read().groups == {"kitchen": ["pi-1"]}, "an edit that is not ready takes nothing away"
    file.unlink()
    assert read().groups == {}


def test_an_inventory_that_failed_is_asked_again_after_a_while_alone(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here.folder / "fleet.toml").write_text('inventory = "hosts"\n')
    asked = []

    def fails(_: Project) -> None:
        asked.append(now[0])
        raise EdgekitError("the inventory's program failed")

    now = [0.0]
    monkeypatch.setattr(Project, "fleet", fails)
    monkeypatch.setattr("edgekit.cli.talk.facts.time.monotonic", lambda: now[0])
    read = reader_of(here)
    for now[0] in (0.0, 2.0, 59.0, 61.0, 63.0):
        assert read().groups == {}
    assert asked == [0.0, 61.0]


def test_a_project_is_read_once_for_all_and_the_last_of_it_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def read() -> ProjectTold:
        calls.append(1)
        if len(calls) > 1:
            raise EdgekitError("the journal cannot be read")
        return ProjectTold(groups={"all": ["pi-1"]})

    async def run() -> None:
        made = facts.Facts(read)
        found = await asyncio.gather(*(made.now() for _ in range(5)))
        assert len(calls) == 1
        monkeypatch.setattr(facts, "SECONDS", 0.0)
        for wanted in (2, 3, 4):
            assert await made.now() == found[0]
            while len(calls) < wanted:
                await asyncio.sleep(0.001)
                assert await made.now() == found[0]

    asyncio.run(run())
    assert caplog.text.count("the journal cannot be read") == 1  # it is said once


def test_a_project_that_is_slow_to_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "FIRST_SECONDS", 0.01)
    go_on = threading.Event()
    told = ProjectTold(groups={"all": ["pi-1"]})

    def read() -> ProjectTold:
        assert go_on.wait(20)
        return told

    async def run() -> None:
        made = facts.Facts(read)
        try:
            async with asyncio.timeout(10):
                assert await made.now() == ProjectTold()
        finally:
            go_on.set()
        async with asyncio.timeout(10):
            while await made.now() != told:
                await asyncio.sleep(0.001)

    asyncio.run(run())


def test_a_journal_that_is_locked_is_shown_as_it_was(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.fleet.rollout.journal.BUSY_SECONDS", 0.01)
    read = reader_of(here)
    story = stories.paused(24)
    _, journal = here.rollouts.create(story.plan, stories.BEGIN)
    before = read()
    stories.write(journal, story)
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert read() == before
    assert read().rollouts[0].phase == "paused"


def test_without_a_project_there_is_nothing_to_read() -> None:
    assert asyncio.run(facts.Facts(None).now()) == ProjectTold()
