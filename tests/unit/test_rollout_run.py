"""A rollout that is run: by its journal alone, by one process, and as other processes order."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from edgekit.core.digest import Digest
from edgekit.core.lease import LeaseWish, as_word
from edgekit.errors import EdgekitError, UsageError
from edgekit.fleet.rollout.book import RolloutBook, holder, holding, number_of
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    AskVerdict,
    DeviceAnswers,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    HookEnded,
    PauseOrdered,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEvent,
    RolloutStarted,
    StageOn,
    SwitchOn,
    WindowChanged,
)
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.run import run
from edgekit.fleet.rollout.waves import RolloutPlan, Terms, waves_of
from tests.fakes.rollout_fleet import NEW, OLD, FakeDevice
from tests.fakes.rollout_hands import FakeHands

RELEASE = Digest.of(b"release")


@dataclass
class World:
    journal: RolloutJournal
    hands: FakeHands

    def run(self, *, leave_soaking: bool = False) -> Rollout:
        def told(_rollout: Rollout, _row: RolloutRow) -> None: ...

        return run(self.journal, self.hands, told, "me@here", leave_soaking=leave_soaking)


def world(folder: Path, count: int, terms: Terms, soak_seconds: float = 0.0) -> World:
    names = [f"pi-{number}" for number in range(count)]
    kinds = dict.fromkeys(names, "pi")
    plan = RolloutPlan(RELEASE, waves_of(kinds, RELEASE), kinds, terms)
    _, journal = RolloutBook(folder).create(plan, time.time())
    journal.append(RolloutStarted("me@here"), time.time())
    devices = {name: FakeDevice(soak_seconds=soak_seconds) for name in names}
    return World(journal, FakeHands(devices))


def test_all_devices_get_the_release_and_no_more_are_worked_on_than_the_plan_says(
    tmp_path: Path,
) -> None:
    made = world(tmp_path, 20, Terms(parallel=3), soak_seconds=0.2)
    made.hands.seconds = 0.01
    rollout = made.run()
    assert rollout.phase == RolloutPhase.DONE
    assert rollout.counts() == {DeviceState.GOOD: 20}
    assert 1 < made.hands.most <= 3
    assert all(device.runs == NEW for device in made.hands.devices.values())
    assert vars(made.journal.replay()) == vars(rollout)


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_clock_that_is_set_makes_no_soak_longer_or_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    made = world(tmp_path, 6, Terms(soak_seconds=2.0))
    began: dict[str, float] = {}
    ahead, stage = [0.0], made.hands.stage

    def stage_later(device: str) -> RolloutEvent:
        began[device] = time.monotonic()
        return stage(device)

    def told(rollout: Rollout, row: RolloutRow) -> None:
        if rollout.wave_phase == "soaking" and rollout.wave == 0:
            began.setdefault("soak", time.monotonic())
            ahead[0] = step

    monkeypatch.setattr(made.hands, "stage", stage_later)
    thread = threading.Thread(
        target=lambda: run(
            made.journal,
            made.hands,
            told,
            "me@here",
            clock=lambda: time.time() + ahead[0],
            steady=time.monotonic,
        ),
        daemon=True,
    )
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    rollout = made.journal.replay()
    assert (rollout.phase, rollout.counts()) == (RolloutPhase.DONE, {DeviceState.GOOD: 6})
    assert min(began[name] for name in rollout.waves[1]) - began["soak"] > 1.9


def test_a_rollout_that_was_aborted_before_it_started_never_starts(tmp_path: Path) -> None:
    """Another push to the same devices came between its plan and its start."""
    made = world(tmp_path, 3, Terms())
    plan = made.journal.read()[0]
    _, journal = RolloutBook(tmp_path).create(plan, time.time())
    journal.append(AbortOrdered("me@here, for rollout 3"), time.time())
    journal.append(RolloutStarted("me@here"), time.time())
    here = World(journal, made.hands)
    assert here.run().phase == RolloutPhase.ABORTED
    assert made.hands.acts == []


class SlowVerdicts(FakeHands):
    """Only the question for a verdict takes time."""

    def verdict(self, device: str) -> RolloutEvent:
        self.seconds = 0.8
        return super().verdict(device)


def test_what_an_event_asks_for_begins_after_the_event_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's bar ends when it is staged; the switch that begins then draws a new one."""
    here = world(tmp_path, 1, Terms())
    begun, switch = threading.Event(), here.hands.switch
    early = []

    def switching(device: str) -> RolloutEvent:
        begun.set()
        return switch(device)

    def told(_rollout: Rollout, row: RolloutRow) -> None:
        if isinstance(row.event, DeviceStaged):
            early.append(begun.wait(0.3))

    monkeypatch.setattr(here.hands, "switch", switching)
    run(here.journal, here.hands, told, "me@here")
    assert early == [False]
    assert begun.is_set()


def test_devices_that_are_asked_for_their_verdict_count_among_those_at_work(tmp_path: Path) -> None:
    """Two are asked when a third, which was away, is due."""
    made = world(tmp_path, 4, Terms(parallel=2, late_seconds=0.5), soak_seconds=0.1)
    made.hands = SlowVerdicts(made.hands.devices)
    made.hands.devices["pi-0"].away = 1
    assert made.run().counts() == {DeviceState.GOOD: 4}
    assert made.hands.most == 2


def test_a_run_that_only_waits_for_soaks_ends_if_it_may_and_the_next_one_asks(
    tmp_path: Path,
) -> None:
    made = world(tmp_path, 3, Terms(), soak_seconds=1.0)
    rollout = made.run(leave_soaking=True)
    assert rollout.phase == RolloutPhase.RUNNING
    assert rollout.counts() == {DeviceState.SOAKING: 3}
    rollout = made.run()
    assert rollout.phase == RolloutPhase.DONE
    asked = [act.device for act in made.hands.acts if isinstance(act, AskVerdict)]
    assert sorted(asked) == ["pi-0", "pi-1", "pi-2"]


def test_an_order_of_another_process_is_read_while_it_runs(tmp_path: Path) -> None:
    made = world(tmp_path, 12, Terms(parallel=1))
    made.hands.seconds = 0.1
    threading.Timer(
        0.3, lambda: made.journal.append(PauseOrdered("ada@there"), time.time())
    ).start()
    rollout = made.run()
    assert rollout.phase == RolloutPhase.PAUSED
    assert "ada@there" in rollout.reason
    waiting = rollout.counts()[DeviceState.WAITING]
    assert waiting > 0
    made.journal.append(ResumeOrdered("ada@there"), time.time())
    made.hands.seconds = 0.0
    rollout = made.run()
    assert rollout.counts() == {DeviceState.GOOD: 12}
    switched = [act.device for act in made.hands.acts if isinstance(act, SwitchOn)]
    assert len(switched) == len(set(switched)) == 12


def test_what_was_staging_when_its_controller_died_is_staged_again_and_a_switch_is_asked_for(
    tmp_path: Path,
) -> None:
    """The journal is that of a controller which was killed with two devices at work."""
    made = world(tmp_path, 2, Terms())
    one, other = made.journal.replay().waves[0]
    staged = made.hands.devices[one]
    assert staged.perform(one, StageOn(one), time.time())
    made.journal.append(staged.perform(one, StageOn(one), time.time()), time.time())
    staged.perform(one, SwitchOn(one), time.time())  # the kill comes before this is written
    rollout = made.run()
    assert rollout.counts() == {DeviceState.GOOD: 2}
    first = [act for act in made.hands.acts if act.device == one]  # type: ignore[union-attr]  # no hook
    assert [type(act) for act in first] == [AskVerdict]
    assert [d.switches for d in made.hands.devices.values()] == [1, 1]
    assert made.hands.devices[other].runs == NEW


def test_a_rollback_of_a_rollout_that_is_done_takes_every_device_back(tmp_path: Path) -> None:
    made = world(tmp_path, 7, Terms())
    assert made.run().phase == RolloutPhase.DONE
    made.journal.append(RollbackOrdered("me@here"), time.time())
    assert made.run().phase == RolloutPhase.BACK
    assert {device.runs for device in made.hands.devices.values()} == {OLD}


class OneAtATime(FakeHands):
    """Notes a device on which two act at once; a verdict takes until somebody orders."""

    def __init__(self, devices: dict[str, FakeDevice]) -> None:
        super().__init__(devices)
        self.asked, self.ordered = threading.Event(), threading.Event()
        self.inside: set[str] = set()
        self.two: list[str] = []

    def verdict(self, device: str) -> RolloutEvent:
        self.asked.set()
        return self._alone(device, lambda: self.ordered.wait(5))

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        return self._alone(device, lambda: super(OneAtATime, self).go_back(device, before))

    def _alone(self, device: str, act: Callable[[], object]) -> RolloutEvent:
        if device in self.inside:
            self.two.append(device)
        self.inside.add(device)
        told = act()
        self.inside.discard(device)
        return told if isinstance(told, RolloutEvent) else DeviceAnswers(device, 60.0)


def test_a_rollback_waits_for_the_question_that_is_at_work_on_its_device(tmp_path: Path) -> None:
    """Both speak over one connection: the rollback would take the answer of the question."""
    made = world(tmp_path, 1, Terms(), soak_seconds=0.05)
    made.hands = hands = OneAtATime(made.hands.devices)

    def order() -> None:
        hands.asked.wait(10)
        made.journal.append(RollbackOrdered("ada@there"), time.time())
        time.sleep(1.2)  # until the rollout has read it, and would have begun
        hands.ordered.set()

    threading.Thread(target=order, daemon=True).start()
    assert made.run().phase == RolloutPhase.BACK
    assert hands.two == []
    assert {device.runs for device in hands.devices.values()} == {OLD}


@pytest.mark.parametrize("order", [RollbackOrdered("me@here"), AbortOrdered("me@here")])
def test_a_hook_that_was_broken_off_is_no_part_of_what_is_left_of_a_rollout_that_goes_no_further(
    order: RolloutEvent, tmp_path: Path
) -> None:
    """It says `this wave went well` to whoever listens, and the wave is taken back."""
    made = world(tmp_path, 2, Terms(hook_after=["true"]))
    hooks: list[int] = []

    def hook(wave: int, after: bool) -> HookEnded:
        hooks.append(wave)
        if len(hooks) == 1:
            raise KeyboardInterrupt
        return HookEnded()

    made.hands.hook = hook  # type: ignore[method-assign]  # for this one
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.journal.append(order, time.time())
    assert made.run().phase in (RolloutPhase.BACK, RolloutPhase.ABORTED)
    assert hooks == [1]


def test_ctrl_c_waits_until_a_hook_has_ended_that_needs_a_moment(tmp_path: Path) -> None:
    made = world(tmp_path, 1, Terms(hook_before=["true"]))
    begun, over = threading.Event(), threading.Event()

    def hook(wave: int, after: bool) -> HookEnded:
        begun.set()
        made.hands.stopped.wait(10)
        time.sleep(0.3)
        over.set()
        return HookEnded("it was interrupted")

    def interrupted() -> float:
        if begun.is_set() and not made.hands.stopped.is_set():
            raise KeyboardInterrupt
        return time.time()

    made.hands.hook = hook  # type: ignore[method-assign]  # for this one
    with pytest.raises(KeyboardInterrupt):
        run(made.journal, made.hands, lambda *_: None, "me@here", clock=interrupted)
    assert over.is_set()


def test_one_process_runs_a_rollout(tmp_path: Path) -> None:
    made = world(tmp_path, 1, Terms())
    assert holder(made.journal) == ""
    with holding(made.journal, "ada@there"):
        assert holder(made.journal).startswith("ada@there, process ")
        with pytest.raises(EdgekitError, match="rollout 1 is run by ada@there") as refused:
            made.run()
    assert "edgekit status 1 --watch" in refused.value.next_step
    assert holder(made.journal) == ""
    assert made.run().phase == RolloutPhase.DONE


def test_a_device_is_switched_when_its_window_opens_and_a_replay_needs_no_clock(
    tmp_path: Path,
) -> None:
    opens = datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp()
    ahead = opens - 1.5 - time.time()
    window = "22:00-23:00 UTC"
    plan = RolloutPlan(
        RELEASE,
        [["free", "waits"]],
        dict.fromkeys(("free", "waits"), "pi"),
        windows={"waits": window},
    )
    _, journal = RolloutBook(tmp_path).create(plan, time.time() + ahead)
    journal.append(RolloutStarted("me@here"), time.time() + ahead)
    devices = {name: FakeDevice(soak_seconds=0.0) for name in plan.kinds}
    made = World(journal, FakeHands(devices, clock=lambda: time.time() + ahead))
    rollout = run(
        journal, made.hands, lambda *_: None, "me@here", clock=lambda: time.time() + ahead
    )
    assert rollout.counts() == {DeviceState.GOOD: 2}
    _, rows, _ = journal.read()
    good = {row.event.device: row.at for row in rows if isinstance(row.event, DeviceGood)}
    assert good["free"] < opens <= good["waits"] < opens + 1
    said = [row.event for row in rows if isinstance(row.event, WindowChanged)]
    assert said == [WindowChanged(False, window), WindowChanged(True, window)]
    assert vars(journal.replay()) == vars(rollout)


def test_a_project_is_one_operator_and_its_book_says_which_device_is_free(tmp_path: Path) -> None:
    made = world(tmp_path, 2, Terms())
    book = RolloutBook(tmp_path)
    made.journal.append(DeviceStaged("pi-0"), time.time())
    book.check_free("pi-0")  # nobody runs it
    with holding(made.journal, "ada@there"):
        with pytest.raises(EdgekitError, match="rollout 1 is at work on pi-0") as refused:
            book.check_free("pi-0")
        assert "ada@there, process" in refused.value.why
        book.check_free("another")
        made.journal.append(DeviceFailed("pi-0", "no"), time.time())
        book.check_free("pi-0")


def test_a_copy_of_a_project_is_another_operator(tmp_path: Path) -> None:
    one = RolloutBook(tmp_path / "one")
    assert one.identity() == RolloutBook(tmp_path / "one").identity()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert RolloutBook(tmp_path / "two").identity() != one.identity()
    wish = LeaseWish(one.identity(), as_word("ada lovelace@desk"), "rollout-1")
    assert msgspec.convert(msgspec.to_builtins(wish), LeaseWish) == wish  # a device takes it


def test_ctrl_c_breaks_off_what_is_at_work_and_says_so_in_the_journal(tmp_path: Path) -> None:
    made = world(tmp_path, 2, Terms())
    made.hands.seconds = 60.0
    calls = 0

    def interrupted() -> float:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return time.time()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(made.journal, made.hands, lambda *_: None, "me@here", clock=interrupted)
    assert time.monotonic() - began < 10
    rollout = made.journal.replay()
    assert (rollout.phase, rollout.reason) == (RolloutPhase.PAUSED, "me@here paused it: Ctrl-C")
    made.journal.append(ResumeOrdered("me@here"), time.time())
    made.hands.seconds = 0.0
    made.hands.stopped.clear()
    assert made.run().counts() == {DeviceState.GOOD: 2}


def test_a_fault_of_our_own_is_raised_and_not_called_a_devices(tmp_path: Path) -> None:
    made = world(tmp_path, 2, Terms())
    del made.hands.devices["pi-1"]
    with pytest.raises(KeyError):
        made.run()
    assert DeviceState.FAILED not in made.journal.replay().counts()


def test_a_hook_that_fails_pauses_and_runs_again_after_a_resume(tmp_path: Path) -> None:
    made = world(tmp_path, 2, Terms(hook_after=["true"]))
    made.hands.trouble = "exit code 1"
    rollout = made.run()
    assert rollout.reason == "the hook after the wave failed: exit code 1"
    made.hands.trouble = ""
    made.journal.append(ResumeOrdered("me@here"), time.time())
    assert made.run().phase == RolloutPhase.DONE


def test_rollouts_have_numbers(tmp_path: Path) -> None:
    book = RolloutBook(tmp_path / "rollouts")
    with pytest.raises(UsageError, match="there is no rollout yet"):
        book.journal()
    for count in (1, 2):
        world(tmp_path / "rollouts", count, Terms())
    assert book.numbers() == [1, 2]
    assert number_of(book.journal()) == 2
    assert number_of(book.journal(1)) == 1
    with pytest.raises(UsageError, match="there is no rollout 3"):
        book.journal(3)


def test_a_rollout_is_there_once_its_plan_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = RolloutBook(tmp_path / "rollouts")

    def killed(*_: object) -> str:
        assert book.numbers() == [], "who looks now meets no journal without a plan"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgekit.fleet.rollout.journal._append", killed)
        with pytest.raises(KeyboardInterrupt):
            world(tmp_path / "rollouts", 1, Terms())
    assert book.numbers() == []
    world(tmp_path / "rollouts", 1, Terms())
    assert book.journal().replay().plan.release == RELEASE
    assert not list((tmp_path / "rollouts").glob("new.tmp*"))


def test_an_ended_rollout_is_known_without_reading_it_until_something_is_ordered(
    tmp_path: Path,
) -> None:
    made = world(tmp_path, 1, Terms())
    made.run()
    assert not made.journal.is_closed
    made.journal.close()
    assert made.journal.is_closed
    made.journal.append(RollbackOrdered("me@here"), time.time())
    assert not made.journal.is_closed
