"""The verbs around a rollout work on its journal: what they say, order and refuse."""

from __future__ import annotations

import io
import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from edgekit.cli import main, render
from edgekit.cli.init import write_project
from edgekit.cli.release import publish
from edgekit.cli.rollout import further, orders, perform, watch
from edgekit.errors import EdgekitError, PartialError, UnreachableError
from edgekit.fleet.pulling import roads
from edgekit.fleet.pulling.hands import PullHands
from edgekit.fleet.pulling.roads import RoadHands
from edgekit.fleet.rollout.book import RolloutBook, holder
from edgekit.fleet.rollout.events import (
    DeviceBack,
    PauseOrdered,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEvent,
    RolloutStarted,
)
from edgekit.fleet.rollout.hands import PushHands
from edgekit.fleet.rollout.journal import RolloutJournal
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.report.page import PAGE_BEGINS
from edgekit.fleet.rollout.run import run as run_rollout
from edgekit.fleet.rollout.waves import RolloutPlan, Terms
from tests.fakes import rollout_stories as stories
from tests.fakes.rollout_fleet import NEW, OLD, FakeDevice, FakeFleet
from tests.fakes.rollout_hands import FakeHands


@dataclass
class Said:
    code: int
    out: str
    err: str


class Desk:
    """A project whose rollouts are stories, and a command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_project(folder, 1883)
        self.book = RolloutBook(folder / ".edgekit" / "rollouts")

    def write(self, made: FakeFleet) -> RolloutJournal:
        _, journal = self.book.create(made.plan, stories.BEGIN)
        stories.write(journal, made)
        return journal

    def run(self, verb: str, *words: str, answer: str | None = None) -> Said:
        arguments = [verb, *words, "--project", str(self.folder)]
        done = CliRunner().invoke(main.application(verb), arguments, input=answer)
        if isinstance(done.exception, EdgekitError):
            return Said(done.exception.exit_code, done.stdout, done.stderr + str(done.exception))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Said(done.exit_code, done.stdout, done.stderr)

    def json(self, verb: str, *words: str) -> Any:
        return json.loads(self.run(verb, *words, "--json").out)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def rows(journal: RolloutJournal) -> list[RolloutEvent]:
    return [row.event for row in journal.read()[1]]


# --- status and rollouts ----------------------------------------------------------------------
def test_without_a_rollout_each_verb_says_what_begins_one(desk: Desk) -> None:
    for words in (["status"], ["pause"], ["resume"], ["abort"], ["report"],
                  ["rollback", "--rollout", "newest"]):  # fmt: skip
        said = desk.run(*words)
        assert said.code == 2
        assert "there is no rollout yet" in said.err
        assert "`edgekit push` begins one" in said.err
    assert "there is no rollout yet" in desk.run("rollouts").out


def test_status_says_phase_wave_counts_and_what_can_follow(desk: Desk) -> None:
    desk.write(stories.good(3))
    desk.write(stories.bad_canary())
    said = desk.run("status").out
    assert said.splitlines()[0].startswith("rollout    2  bundle a4d451ec2346")
    assert "phase      paused: the canary jetson-0001 failed: it crashed" in said
    assert "wave       1 of 3" in said
    assert "started    2025-11-29" in said
    assert "by ada@desk" in said
    (counts,) = (line for line in said.splitlines() if line.startswith("devices"))
    assert set(counts.removeprefix("devices").strip().split(", ")) == {
        "1 failed", "1 good", "8 waiting",
    }  # fmt: skip
    assert "then       `edgekit resume 2` goes on with wave 1 of 3" in said
    table = said.splitlines()[said.splitlines().index("") + 1 :]
    assert table[0].split() == ["device", "wave", "state", "since", "reason"]
    assert table[1].split()[:3] == ["jetson-0001", "1", "failed"]
    assert len(table) == 1 + 10
    assert "phase      done" in desk.run("status", "1").out


def test_a_rollout_that_only_stages_calls_no_device_good(desk: Desk) -> None:
    """They run what they ran before."""
    made = stories.started(stories.fleet(4, Terms(stage_only=True)))
    made.run()
    desk.write(made)
    said = desk.run("status", "--watch")
    assert said.code == 0, said.err
    assert "phase      done" in said.out
    assert "devices    4 staged" in said.out
    assert all(perform._has_it(made.rollout, device) for device in made.devices)
    assert desk.json("status")["counts"] == {"staged": 4}
    assert desk.run("rollback", "--rollout", "1", "-y").code == 2, "nothing was switched"


def test_a_long_table_shows_first_what_needs_a_look(desk: Desk) -> None:
    made = stories.large(120)
    desk.write(made)
    said = desk.run("status").out.splitlines()
    table = said[said.index("") + 1 :]
    assert len(table) == 1 + 20 + 1
    bad = [name for name, d in made.rollout.devices.items() if d.state in ("failed", "away")]
    shown = [line.split()[0] for line in table[1:-1]]
    assert set(bad) <= set(shown) or set(shown) <= set(bad)
    assert table[-1].endswith("--all shows them")
    whole = desk.run("status", "--all").out.splitlines()
    assert len(whole) == len(said) - len(table) + 1 + 120


def test_status_as_json_has_every_device(desk: Desk) -> None:
    made = stories.paused()
    journal = desk.write(made)
    told = desk.json("status")
    assert (told["number"], told["phase"], told["wave"], told["waves"]) == (1, "paused", 3, 3)
    assert told["head"] == journal.read()[2]
    assert told["holder"] == ""
    assert {d["name"]: d["state"] for d in told["devices"]} == {
        name: device.state for name, device in made.rollout.devices.items()
    }


def test_rollouts_lists_all_and_their_heads(desk: Desk) -> None:
    heads = [desk.write(story()).read()[2] for story in (stories.good, stories.aborted)]
    lines = desk.run("rollouts").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["1", "done"], ["2", "aborted"]]
    assert [line.split()[-1] for line in lines] == [head[:12] for head in heads]
    assert [each["head"] for each in desk.json("rollouts")["rollouts"]] == heads


# --- a damaged journal ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("status", "--watch"), ("pause",), ("resume",), ("abort", "--yes"),
        ("rollback", "--rollout", "1", "--yes"), ("report",), ("rollouts",),
    ],
)  # fmt: skip
def test_a_damaged_journal_is_named_by_its_row_and_nothing_is_written(
    desk: Desk, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = desk.write(stories.paused())
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE rows SET at = '3.0' WHERE number = 4")
    before = journal.path.read_bytes()
    page = desk.folder / "kept.html"
    page.write_text("the report of yesterday")
    monkeypatch.chdir(desk.folder)
    said = desk.run(*words, *(["-o", str(page)] if words == ("report",) else []))
    assert said.code == 4
    assert f"row 4 of {journal.path} is not as it was written" in said.err
    assert journal.path.read_bytes() == before
    assert page.read_text() == "the report of yesterday"


def test_the_list_shows_the_other_rollouts_beside_a_damaged_one(desk: Desk) -> None:
    desk.write(stories.good())
    journal = desk.write(stories.good())
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE rows SET at = '3.0' WHERE number = 2")
    said = desk.run("rollouts")
    assert said.code == 4
    assert [line.split()[:2] for line in said.out.splitlines()] == [["1", "done"], ["2", "damaged"]]


# --- orders -----------------------------------------------------------------------------------
def going_back() -> FakeFleet:
    made = stories.good()
    made.tell(RollbackOrdered(stories.BY))
    return made


PHASES: dict[str, Callable[[], FakeFleet]] = {
    "planned": lambda: stories.fleet(3),
    "running": lambda: stories.started(stories.fleet(10)),
    "paused": stories.paused,
    "done": stories.good,
    "aborted": stories.aborted,
    "going back": going_back,
    "back": stories.two_nights,
}


@pytest.mark.parametrize("phase", PHASES)
def test_an_order_is_taken_where_the_machine_takes_it_and_refused_elsewhere(
    desk: Desk, phase: str
) -> None:
    made = PHASES[phase]()
    assert made.rollout.phase == phase
    for verb, words, taken in (
        ("pause", (), {"running"}),
        ("abort", ("--yes",), {"running", "paused"}),
    ):
        journal = desk.write(made)
        before = rows(journal)
        said = desk.run(verb, *words)
        if phase in taken:
            assert (said.code, len(rows(journal))) == (0, len(before) + 1)
            assert journal.replay().phase == {"pause": "paused", "abort": "aborted"}[verb]
        else:
            assert (said.code, rows(journal)) == (2, before)
            assert f"not {verb}" in said.err
            assert "next: " in said.err


def test_a_pause_says_who_and_why_and_how_to_go_on(desk: Desk) -> None:
    journal = desk.write(stories.started(stories.fleet(10)))
    said = desk.run("pause", "--reason", "the line is busy")
    assert said.out.splitlines() == [
        "rollout 1 is paused",
        "  `edgekit resume 1` goes on with wave 1 of 3",
    ]
    (order,) = (event for event in rows(journal) if isinstance(event, PauseOrdered))
    assert "@" in order.by
    assert journal.replay().reason == f"{order.by} paused it: the line is busy"


@pytest.mark.parametrize("words", [("abort", "1"), ("rollback", "--rollout", "1")])
def test_what_reaches_a_whole_fleet_is_not_done_unasked(
    desk: Desk, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = desk.write(stories.paused())
    before = rows(journal)
    said = desk.run(*words)
    assert said.code == 2
    assert "--yes" in said.err
    monkeypatch.setattr(orders, "_asks_a_person", lambda: True)
    said = desk.run(*words, answer="n\n")
    assert said.code == 2
    assert "nothing was ordered" in said.err
    assert rows(journal) == before
    if words[0] == "abort":
        said = desk.run(*words, answer="y\n")
        assert said.code == 0
        assert "9 devices keep the release" in said.err
        assert journal.replay().phase == RolloutPhase.ABORTED


def test_an_order_that_came_too_late_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = desk.write(stories.started(stories.fleet(10)))
    append = RolloutJournal.append

    def overtaken(self: RolloutJournal, event: RolloutEvent, now: float) -> str:
        monkeypatch.setattr(RolloutJournal, "append", append)
        append(self, RollbackOrdered("bob@desk"), now)
        return append(self, event, now)

    monkeypatch.setattr(RolloutJournal, "append", overtaken)
    said = desk.run("pause", "1")
    assert said.code == 2
    assert "the order came too late: rollout 1 has gone back" in said.err
    assert journal.replay().phase == RolloutPhase.BACK


# --- what is run ------------------------------------------------------------------------------
@dataclass
class Room:
    """A rollout whose devices are not there, which `resume` and `rollback` run for real."""

    journal: RolloutJournal
    hands: FakeHands

    def go_on(self, _here: Any, journal: RolloutJournal, _json: bool, order: Any, **_: Any) -> None:
        if order is not None:
            journal.append(order, time.time())
        self.run()

    def run(self) -> None:
        run_rollout(self.journal, self.hands, lambda *_: None, "bob@cellar")

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        deadline = time.monotonic() + 10
        while not holder(self.journal):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield
        finally:
            thread.join(30)
            assert not thread.is_alive()


def room(desk: Desk, monkeypatch: pytest.MonkeyPatch, terms: Terms, **habits: str) -> Room:
    made = stories.fleet(6, terms)
    _, journal = desk.book.create(made.plan, time.time())
    journal.append(RolloutStarted(stories.BY), time.time())
    devices = {name: FakeDevice(soak_seconds=0.0) for name in made.plan.kinds}
    for name, fails in habits.items():
        devices[name.replace("_", "-")].fails = fails
    there = Room(journal, FakeHands(devices))
    monkeypatch.setattr(further, "go_on", there.go_on)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watch, "NOBODY_SECONDS", 0.2)
    return there


def test_a_word_from_outside_begins_the_next_wave(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(confirm=True))
    made.run()
    said = desk.run("status").out
    assert "phase      paused: wave 1 went well and waits for a word" in said
    assert "`edgekit resume 1` begins wave 2 of 2" in said
    assert desk.run("resume", "1").code == 0
    assert made.journal.replay().phase == RolloutPhase.DONE
    assert sum(isinstance(event, ResumeOrdered) for event in rows(made.journal)) == 1


def test_a_rollout_whose_controller_died_is_resumed_without_an_order(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms())
    said = desk.run("status").out
    assert "run by     nobody" in said
    assert "then       nobody runs it: `edgekit resume 1` goes on" in said
    assert desk.run("resume", "--retry-failed").code == 2
    assert desk.run("resume").code == 0
    assert made.journal.replay().phase == RolloutPhase.DONE
    assert not any(isinstance(event, ResumeOrdered) for event in rows(made.journal))


def test_failed_devices_are_tried_again_only_if_that_is_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(), pi_0004="switch", jetson_0005="switch")
    made.run()
    assert made.journal.replay().phase in (RolloutPhase.PAUSED, RolloutPhase.DONE)
    while made.journal.replay().phase != RolloutPhase.DONE:
        assert desk.run("resume").code == 0
    said = desk.run("resume")
    assert said.code == 2
    assert "`edgekit resume 1 --retry-failed` tries 2 failed devices again" in said.err
    for device in made.hands.devices.values():
        device.fails = ""
    assert desk.run("resume", "--retry-failed").code == 0
    assert all(device.runs == NEW for device in made.hands.devices.values())
    said = desk.run("resume")
    assert said.code == 2
    assert "nothing to resume: rollout 1 is done" in said.err


def test_a_finished_rollout_goes_back_by_one_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms())
    made.run()
    assert all(device.runs == NEW for device in made.hands.devices.values())
    assert desk.run("rollback", "--rollout", "newest", "--yes").code == 0
    assert all(device.runs == OLD for device in made.hands.devices.values())
    assert made.journal.replay().phase == RolloutPhase.BACK
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 2
    assert "rollout 1 has gone back" in said.err


def stuck() -> FakeFleet:
    """A rollback that one device refuses."""
    made = stories.good(3)
    made.devices["pi-0002"].fails = "back"
    made.tell(RollbackOrdered("bob@desk"))
    made.run()
    return made


def test_a_rollback_that_left_a_device_where_it_was_is_not_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.write(stuck())
    told = desk.json("status")
    assert (told["phase"], told["stuck"]) == ("back", ["pi-0002"])
    assert (
        "`edgekit state pi-0002` shows what runs there: it could not go back"
        in desk.run("status").out
    )
    said = desk.run("status", "--watch")
    assert said.code == 3
    assert "1 device could not go back: pi-0002" in said.err
    rollout = desk.book.journal().replay()
    with pytest.raises(PartialError, match="1 device could not go back: pi-0002"):
        perform._raise_for(1, rollout, RoadHands(PushHands.__new__(PushHands), None, []))


@pytest.fixture
def reached(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that a command connects to; the fleet has pi-0000 and jetson-0001 alone."""
    there: list[str] = []

    def go_back(_: Any, device: str, _before: Any) -> DeviceBack:
        there.append(device)
        return DeviceBack(device)

    monkeypatch.setattr(PushHands, "go_back", go_back)
    devices = (f'[devices.{name}]\naddress = "ssh:{name}"\n' for name in ("pi-0000", "jetson-0001"))
    (desk.folder / "fleet.toml").write_text("".join(devices))
    return there


def test_a_rollback_takes_the_others_where_fleet_toml_has_lost_one(
    desk: Desk, reached: list[str]
) -> None:
    journal = desk.write(stories.good(3))
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 3
    assert sorted(reached) == ["jetson-0001", "pi-0000"]
    assert "pi-0002 is left as it is: fleet.toml does not have it any more" in said.err
    assert "1 device could not go back: pi-0002" in said.err
    assert "put it back into fleet.toml, then `edgekit rollback pi-0002`" in said.err
    assert journal.replay().phase == RolloutPhase.BACK
    told = desk.run("status")
    assert "`edgekit rollback pi-0002` takes it back, once fleet.toml has it again" in told.out
    assert "edgekit state pi-0002" not in told.out
    watched = desk.run("status", "--watch")
    assert watched.code == 3
    assert "put it back into fleet.toml" in watched.err


def test_a_rollback_as_json_names_the_lost_one_and_what_helps(
    desk: Desk, reached: list[str]
) -> None:
    desk.write(stories.good(3))
    said = desk.run("rollback", "--rollout", "1", "--yes", "--json")
    assert said.code == 3
    assert list(json.loads(said.out)["failed"]) == ["pi-0002"]


def test_a_rollback_takes_the_others_back_while_the_broker_is_down(
    desk: Desk, reached: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that pulls is away until it can be told: it failed the others, too."""
    text = (desk.folder / "fleet.toml").read_text()
    pull = '[pull]\nregistry = "registry.example/m"\n[devices.pi-0002]\naddress = "pull:"\n'
    (desk.folder / "fleet.toml").write_text(text + pull)
    tries: list[list[str]] = []

    @contextmanager
    def at_desk(_: Any) -> Iterator[Any]:
        tries.append(list(reached))
        if len(tries) < 3:
            raise UnreachableError("the broker does not answer", "it is down")
        yield None

    monkeypatch.setattr(roads, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(publish, "at_desk", at_desk)
    monkeypatch.setattr(PullHands, "go_back", lambda _, device, __: DeviceBack(device))
    monkeypatch.setattr(further, "prepare_way_back", lambda *_: None)
    made = stories.started(stories.fleet(3, Terms(late_seconds=0.05)))
    made.run()
    journal = desk.write(made)
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 0
    assert "pi-0002: the broker does not answer" in said.err
    assert sorted(tries[1]) == ["jetson-0001", "pi-0000"]
    assert journal.replay().phase == RolloutPhase.BACK
    assert journal.replay().devices["pi-0002"].state == "back"


def test_a_rollback_says_who_may_yet_join_where_the_broker_was_not_told(
    desk: Desk, reached: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word that was left for a device that is off lies at the broker; nobody can take it away."""
    text = (desk.folder / "fleet.toml").read_text()
    pull = '[pull]\nregistry = "registry.example/m"\n[devices.pi-0002]\naddress = "pull:"\n'
    (desk.folder / "fleet.toml").write_text(text + pull)

    def at_desk(_: Any) -> Any:
        raise UnreachableError("the broker does not answer", "it is down")

    monkeypatch.setattr(publish, "at_desk", at_desk)
    monkeypatch.setattr(further, "prepare_way_back", lambda *_: None)
    made = stories.fleet(3)
    made.devices["pi-0002"].away = 99
    stories.started(made).run()
    journal = desk.write(made)
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 3
    assert sorted(reached) == ["jetson-0001", "pi-0000"]
    assert "pi-0002 may yet join what has gone back: the broker was not told" in said.err
    assert journal.replay().phase == RolloutPhase.BACK


def test_a_rollback_whose_controller_died_at_the_switch_of_a_lost_one_names_it(
    desk: Desk, reached: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it has switched: it is not taken for one that never did."""
    made = stories.started(stories.fleet(3, Terms(late_seconds=0.01)))
    while made.rollout.devices["pi-0002"].state != "switching":
        made.step()
    journal = desk.write(made)
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 3
    assert "pi-0002" in said.err
    assert journal.replay().devices["pi-0002"].stuck


def test_a_rollback_that_could_take_no_device_back_is_refused_whole(
    desk: Desk, reached: list[str]
) -> None:
    (desk.folder / "fleet.toml").write_text('[devices.other]\naddress = "ssh:other"\n')
    journal = desk.write(stories.good(3))
    before = rows(journal)
    said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 2
    assert "has switched no other device" in said.err
    assert rows(journal) == before
    assert reached == []


def test_a_resume_names_what_is_lost_and_a_step_that_works(desk: Desk, reached: list[str]) -> None:
    made = stories.bad_canary()
    states = {name: device.state for name, device in made.rollout.devices.items()}
    desk.write(made)
    said = desk.run("resume")
    assert said.code == 2
    assert "put it back into fleet.toml, or abort the rollout" in said.err
    waits = [name for name, state in states.items() if state not in ("good", "failed")]
    text = "".join(f'[devices.{name}]\naddress = "ssh:{name}"\n' for name in waits)
    (desk.folder / "fleet.toml").write_text(text)
    went_on = desk.run("resume")
    assert "any more" not in went_on.err, "those that ended are not needed"
    assert "bundle" in went_on.err
    failed = [name for name, state in states.items() if state == "failed"]
    again = desk.run("resume", "--retry-failed")
    assert f"fleet.toml does not have {', '.join(failed)} any more" in again.err


def test_a_device_that_failed_is_told_while_the_others_end_their_trial(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "NOBODY_SECONDS", 0.1)
    made = stories.fleet(3)
    made.devices["pi-0000"].fails = "switch"
    stories.started(made)
    while not made.rollout.counts().keys() <= {"failed", "on trial"}:
        made.step()
    desk.write(made)
    said = desk.run("status", "--watch")
    assert said.code == 3
    assert "1 of 3 devices do not have the release" in said.err


@pytest.mark.parametrize("address", ["pull:", "ssh:pi"])
def test_a_rollback_asks_also_where_a_device_may_have_joined_late_alone(
    desk: Desk, address: str
) -> None:
    plan = RolloutPlan(stories.RELEASE, [["pi"]], {"pi": ""}, Terms())
    made = FakeFleet(plan, {"pi": FakeDevice(away=99)}, random.Random(1))
    for event in (RolloutStarted("ada@desk"), ResumeOrdered("ada@desk")):
        made.tell(event)
        made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    desk.write(made)
    pull = '[pull]\nregistry = "registry.example/m"\n'
    (desk.folder / "fleet.toml").write_text(f'{pull}[devices.pi]\naddress = "{address}"\n')
    said = desk.run("rollback", "--rollout", "1", answer="n\n")
    if address == "pull:":
        assert "take 0 devices and those that joined late of rollout 1 back" in said.out + said.err
    else:
        assert "nothing to take back" in said.err
    assert said.code != 0


def test_rollback_takes_a_device_or_a_rollout(desk: Desk) -> None:
    for words in ((), ("pi-1", "--rollout", "1")):
        said = desk.run("rollback", *words)
        assert said.code == 2
        assert "name one device, or a rollout" in said.err
    assert "'last' is no number of a rollout" in desk.run("rollback", "--rollout", "last").err


def test_orders_reach_the_process_that_runs_the_rollout(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(parallel=1))
    made.hands.seconds = 0.15
    with made.running():
        assert "run by     bob@cellar, process " in desk.run("status").out
        said = desk.run("resume")
        assert said.code == 2
        assert "bob@cellar" in said.err
        assert "`edgekit status 1 --watch`" in said.err
        said = desk.run("pause")
        assert said.code == 0
    rollout = made.journal.replay()
    assert rollout.phase == RolloutPhase.PAUSED
    assert any(device.runs == OLD for device in made.hands.devices.values())
    assert desk.run("resume").code == 0
    assert made.journal.replay().phase == RolloutPhase.DONE


def test_a_rollback_of_a_running_rollout_is_obeyed_and_watched(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(parallel=2))
    made.hands.seconds = 0.1
    with made.running():
        while NEW not in {device.runs for device in made.hands.devices.values()}:
            time.sleep(0.01)
        said = desk.run("rollback", "--rollout", "1", "--yes")
    assert said.code == 0
    assert "rollout 1 is run by bob@cellar" in said.err
    assert "phase      back" in said.out
    assert all(device.runs == OLD for device in made.hands.devices.values())


# --- watch ------------------------------------------------------------------------------------
def test_a_watch_tells_each_change_and_ends_with_the_rollout(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(parallel=1))
    made.hands.seconds = 0.1
    with made.running():
        said = desk.run("status", "--watch")
    assert said.code == 0
    changes = [line for line in said.out.splitlines() if "→" in line]
    assert any("switching → good" in line for line in changes)
    assert any("rollout" in line and "running → done" in line for line in changes)
    assert "phase      done" in said.out
    for _ in range(2):  # of one that is over already
        assert desk.run("status", "--watch").code == 0


def test_a_watch_as_json_is_an_object_for_each_change(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(parallel=1))
    made.hands.seconds = 0.1
    with made.running():
        said = desk.run("status", "--watch", "--json")
    objects = [json.loads(line) for line in said.out.splitlines()]
    assert {each["change"] for each in objects[:-1]} <= {"device", "phase", "wave", "order"}
    assert objects[-1]["phase"] == "done"


@pytest.mark.parametrize(
    ("phase", "code", "words"),
    [
        ("paused", 3, "rollout 1 is paused"),
        ("aborted", 3, "rollout 1 is aborted"),
        ("running", 3, "nobody runs rollout 1"),
        ("done", 0, ""),
        ("back", 0, ""),
    ],
)
def test_a_watch_ends_with_the_code_of_what_it_saw(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, phase: str, code: int, words: str
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watch, "NOBODY_SECONDS", 0.1)
    desk.write(PHASES[phase]())
    said = desk.run("status", "--watch")
    assert said.code == code
    assert words in said.err


def test_a_watch_on_a_terminal_is_a_table_that_moves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = room(desk, monkeypatch, Terms(parallel=1))
    made.hands.seconds = 0.1
    screen = io.StringIO()
    monkeypatch.setattr(render, "out", Console(file=screen, force_terminal=True, height=14))
    with made.running():
        assert desk.run("status", "--watch").code == 0
    frames = screen.getvalue()
    assert frames.count("run by     bob@cellar") >= 2
    assert "and " in frames  # the table of a frame is as long as the terminal has room
    assert "→" not in frames
    assert "done" in frames[frames.rindex("phase      ") :]  # what stays on the screen


def test_ctrl_c_ends_the_watching_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = room(desk, monkeypatch, Terms(parallel=1))
    made.hands.seconds = 0.1

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with made.running():
        with monkeypatch.context() as patched:
            patched.setattr(watch, "sleep", interrupt)
            said = desk.run("status", "--watch")
        assert said.code == 0
        assert "is not watched any more; bob@cellar" in said.err
    assert made.journal.replay().phase == RolloutPhase.DONE


# --- report -----------------------------------------------------------------------------------
def test_a_report_is_written_whole_and_names_the_head(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    journal = desk.write(stories.two_nights())
    said = desk.run("report")
    assert said.code == 0
    text = (desk.folder / "rollout-1.html").read_text()
    assert text.startswith(PAGE_BEGINS.decode())
    assert journal.read()[2] in text
    assert journal.read()[2] in said.out
    assert desk.run("report").code == 0, "a report may be written anew"
    (desk.folder / "index.html").write_text("<!doctype html>\n<p>somebody's page\n")
    assert desk.run("report", "-o", "index.html").code == 2
    told = desk.json("report", "1", "-o", "other.html")
    assert told["report"] == "other.html"
    assert len(told["events"]) == len(rows(journal))
    said = desk.run("report", "-o", "nowhere/page.html")
    assert (said.code, "nowhere is no folder" in said.err) == (2, True)


def test_a_history_that_was_cut_off_does_not_contain_an_earlier_head(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    journal = desk.write(stories.good())
    earlier = journal.read()[1][-3].hash
    head = desk.json("status")["head"]
    for one in (earlier, head, head[:12], journal.heads()[0]):
        assert desk.run("report", "--contains", one).code == 0
    (desk.folder / "rollout-1.html").unlink()
    with sqlite3.connect(journal.path) as db:
        db.execute("DELETE FROM rows WHERE number = (SELECT max(number) FROM rows)")
    assert desk.run("report", "--contains", earlier, "-o", "other.html").code == 0
    said = desk.run("report", "--contains", head)
    assert said.code == 4
    assert f"does not contain the head {head}" in said.err
    for unset in ("", head[:11], head + "0", "*"):  # a variable that nobody has set checks nothing
        said = desk.run("report", "--contains", unset)
        assert (said.code, "is no head" in said.err) == (2, True)
    assert not (desk.folder / "rollout-1.html").exists()


# --- the documentation ------------------------------------------------------------------------
def documented_orders() -> dict[str, dict[str, str]]:
    """Of each phase what the table of docs/rollout.md says of each order."""
    text = (Path(__file__).parents[2] / "docs" / "rollout.md").read_text("utf-8")
    found = re.findall(r"^\| ([a-z ]+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    verbs = ("pause", "resume", "abort", "rollback")
    said = {phase: dict(zip(verbs, cells, strict=True)) for phase, *cells in found}
    return {phase: said[phase] for phase in RolloutPhase}


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_takes_the_orders_that_the_documentation_says(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(further, "go_on", lambda *given, **_: ran.append(given[-1]))
    made = PHASES[phase]()
    if phase == "done":
        made = stories.fleet(10)
        made.devices[made.plan.waves[-1][0]].away = 100
        stories.started(made).run()
    words = {
        "pause": (), "resume": (), "abort": ("--yes",),
        "rollback": ("--rollout", "newest", "--yes"),
    }  # fmt: skip
    for verb, said in documented_orders()[phase].items():
        journal = desk.write(made)
        before = len(rows(journal))
        done = desk.run(verb, *words[verb])
        assert done.code == (2 if said == "no" else 0), f"{verb}: {done.err}"
        if said == "no":
            assert len(rows(journal)) == before
