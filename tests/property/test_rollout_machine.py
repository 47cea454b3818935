"""The rollout: its rules hold for random fleets, orders and kills; a replay is the same rollout."""

from __future__ import annotations

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.digest import Digest
from edgekit.fleet.rollout.device import ENDED, WORKED_ON, DeviceState
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    GoBackOn,
    PauseOrdered,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEffect,
    RolloutStarted,
    StageOn,
    SwitchOn,
    WindowChanged,
)
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.waves import UNKNOWN, RolloutPlan, Terms, waves_of
from edgekit.fleet.rollout.windows.window import parse_window
from tests.fakes.rollout_fleet import NEW, OLD, FakeDevice, FakeFleet

RELEASE = Digest.of(b"release")
HOOK = ["true"]


NIGHT = "22:00-05:00 Europe/Berlin"
SHORT = "00:00-00:10 UTC or 12:00-12:10 UTC"


def fleet(
    habits: dict[str, FakeDevice],
    terms: Terms | None = None,
    seed: int = 0,
    shares: int = 0,
    windows: dict[str, str] | None = None,
) -> FakeFleet:
    kinds = {name: name.split("-", maxsplit=1)[0] for name in habits}
    waves = waves_of(kinds, RELEASE, None if not shares else [0.1, 1.0])
    plan = RolloutPlan(RELEASE, waves, kinds, terms or Terms(), windows or {})
    return FakeFleet(plan, habits, random.Random(seed))


def ten() -> dict[str, FakeDevice]:
    return {f"pi-{number}": FakeDevice() for number in range(10)}


def canary(made: FakeFleet) -> str:
    return made.plan.waves[0][0]


def same(one: Rollout, other: Rollout) -> bool:
    return vars(one) == vars(other)


# --- named stories ----------------------------------------------------------------------------
def test_ten_devices_get_a_good_release() -> None:
    made = fleet(ten())
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    assert made.rollout.counts() == {DeviceState.GOOD: 10}
    assert all(device.switches == 1 for device in made.devices.values())


def test_a_bad_canary_pauses_and_nine_are_not_touched() -> None:
    made = fleet(ten())
    made.devices[canary(made)].fails = "soak"
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.PAUSED
    assert canary(made) in made.rollout.reason
    touched = [name for name, device in made.devices.items() if device.staged]
    assert touched == [canary(made)]
    assert all(device.runs == OLD for device in made.devices.values())


def test_a_resume_after_a_bad_canary_goes_on_without_it() -> None:
    made = fleet(ten())
    made.devices[canary(made)].fails = "switch"
    made.tell(RolloutStarted("me"))
    made.run()
    made.tell(ResumeOrdered("me"))
    made.run()
    assert made.rollout.counts() == {DeviceState.GOOD: 9, DeviceState.FAILED: 1}
    assert made.rollout.phase == RolloutPhase.DONE


def test_a_canary_that_is_away_is_replaced_by_one_of_its_class() -> None:
    habits = ten() | {f"jetson-{number}": FakeDevice() for number in range(3)}
    made = fleet(habits)
    away = next(name for name in made.plan.waves[0] if name.startswith("jetson"))
    made.devices[away].away = 1000
    made.tell(RolloutStarted("me"))
    while made.rollout.wave == 0:
        assert made.step()
    good = {name for name, device in made.devices.items() if device.runs == NEW}
    assert {name.split("-", maxsplit=1)[0] for name in good} == {"pi", "jetson"}


def test_one_device_stands_in_for_a_canary_however_often_that_is_away() -> None:
    made = fleet(ten(), Terms(soak_seconds=7200.0), shares=2)
    made.devices[canary(made)].away = 1000
    made.tell(RolloutStarted("me"))
    while made.rollout.wave == 0:
        assert made.step()
    assert len(made.rollout.waves[0]) == 2
    assert sum(device.runs == NEW for device in made.devices.values()) == 1


def test_devices_that_were_away_join_later() -> None:
    made = fleet(ten())
    late = made.plan.waves[-1][0]
    made.devices[late].away = 3
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    made.tell(ResumeOrdered("me"))
    made.run()
    assert made.devices[late].away < 2
    for _ in range(3):
        made.tell(ResumeOrdered("me"))
        made.run()
    assert made.rollout.counts() == {DeviceState.GOOD: 10}


def test_too_many_failures_pause_and_one_does_not() -> None:
    for failing, phase in ((1, RolloutPhase.DONE), (2, RolloutPhase.PAUSED)):
        made = fleet(ten())
        for name in made.plan.waves[-1][:failing]:
            made.devices[name].fails = "stage"
        made.tell(RolloutStarted("me"))
        made.run()
        assert made.rollout.phase == phase


def test_a_closed_window_stages_and_does_not_switch() -> None:
    made = fleet({f"pi-{number}": FakeDevice() for number in range(4)})
    made.tell(WindowChanged(open=False))
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.counts() == {DeviceState.STAGED: 4}
    assert all(device.staged and device.runs == OLD for device in made.devices.values())
    made.tell(WindowChanged(open=True))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE


def test_devices_wait_for_their_own_windows() -> None:
    """It is afternoon: the ones switch now, the others are staged and switch in the evening."""
    windows = {f"pi-{number}": NIGHT for number in range(3)}
    made = fleet({f"pi-{number}": FakeDevice() for number in range(5)}, windows=windows)
    made.tell(RolloutStarted("me"))
    while made.rollout.counts().get(DeviceState.GOOD, 0) < 2:
        assert made.step()
    assert made.rollout.counts() == {DeviceState.STAGED: 3, DeviceState.GOOD: 2}
    opens = parse_window(NIGHT).next_change(made.now)
    assert made.rollout.wakes_at() == opens
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    switched = [device.good_at - device.soak_seconds for device in made.devices.values()]
    assert sum(at >= (opens or 0) for at in switched) == 3


def test_a_resume_in_the_morning_does_not_believe_the_evening() -> None:
    made = fleet({"pi-1": FakeDevice()}, windows={"pi-1": NIGHT})
    window = parse_window(NIGHT)
    made.now = window.next_change(made.now) or 0.0
    assert window.is_open(made.now)
    made.tell(RolloutStarted("me"))
    made.tell(PauseOrdered("me"))
    made.run()
    assert made.rollout.counts() == {DeviceState.STAGED: 1}
    made.now = (window.next_change(made.now) or 0.0) + 1
    made.tell(ResumeOrdered("me"))
    assert made.rollout.counts() == {DeviceState.STAGED: 1}
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE


def test_a_rollback_waits_for_no_window() -> None:
    made = fleet({"pi-1": FakeDevice()}, windows={"pi-1": NIGHT})
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.devices["pi-1"].runs == NEW
    while parse_window(NIGHT).is_open(made.now):
        made.now += 3600
    before = made.now
    made.tell(RollbackOrdered("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.BACK
    assert made.now - before < 60


def test_stage_only_switches_nothing() -> None:
    habits = ten()
    habits["pi-3"].runs = NEW
    made = fleet(habits, Terms(stage_only=True), windows=dict.fromkeys(habits, NIGHT))
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    assert all(device.staged for device in made.devices.values())
    assert sum(device.runs == NEW for device in made.devices.values()) == 1
    # none but that one is called good: the others run what they ran
    assert made.rollout.counts() == {DeviceState.STAGED: 9, DeviceState.GOOD: 1}


def test_a_person_confirms_each_wave() -> None:
    made = fleet(ten(), Terms(confirm=True, hook_before=HOOK, hook_after=HOOK))
    made.tell(RolloutStarted("me"))
    pauses = 0
    for _ in range(20):
        made.run()
        if made.rollout.phase == RolloutPhase.DONE:
            break
        assert "waits for a word" in made.rollout.reason
        pauses += 1
        made.tell(ResumeOrdered("me"))
    assert pauses == len(made.plan.waves) - 1


def test_a_rollback_takes_every_device_back() -> None:
    made = fleet(ten())
    made.devices[made.plan.waves[-1][0]].fails = "soak"
    made.tell(RolloutStarted("me"))
    made.run()
    made.tell(RollbackOrdered("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.BACK
    assert all(device.runs == OLD for device in made.devices.values())


def test_a_small_fleet_has_one_wave_and_a_class_has_a_canary() -> None:
    assert len(waves_of(dict.fromkeys("abcde", "pi"), RELEASE)) == 1
    kinds = {f"pi-{n}": "pi" for n in range(90)} | {f"jetson-{n}": "jetson" for n in range(10)}
    waves = waves_of(kinds, RELEASE)
    assert [len(wave) for wave in waves] == [2, 3, 20, 75]
    assert {kinds[name] for name in waves[0]} == {"pi", "jetson"}
    assert waves_of(kinds, Digest.of(b"another"))[0] != waves[0]
    assert waves_of(kinds, RELEASE, unchanged=set(kinds)) == [sorted(kinds)]
    assert len(waves_of(kinds, RELEASE, [0.5, 1.0], unchanged=set(kinds))) > 1, "shares are given"
    assert waves_of(kinds, RELEASE, unchanged=set(list(kinds)[1:])) == waves


def test_devices_of_unknown_hardware_come_last_and_are_no_canaries() -> None:
    kinds = {f"pi-{n}": "pi" for n in range(20)} | {f"off-{n}": UNKNOWN for n in range(4)}
    waves = waves_of(kinds, RELEASE)
    assert [len(wave) for wave in waves] == [1, 1, 4, 18]
    assert {name for name in waves[-1] if kinds[name] == UNKNOWN} == {f"off-{n}" for n in range(4)}
    assert len(waves_of(dict.fromkeys(kinds, UNKNOWN), RELEASE)[0]) == 1


def test_a_canary_that_answers_worse_pauses_before_the_second_wave() -> None:
    made = fleet(ten(), Terms(quality=True))
    made.devices[canary(made)].quality = 0.5
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.PAUSED
    assert f"the canary {canary(made)} answers worse" in made.rollout.reason
    assert "50% of 50 certain positions" in made.rollout.reason
    assert [name for name, device in made.devices.items() if device.staged] == [canary(made)]
    made.tell(ResumeOrdered("me"))  # a person accepts it
    made.run()
    assert made.rollout.counts() == {DeviceState.GOOD: 10}


def test_a_canary_that_says_nothing_of_its_quality_pauses_in_time() -> None:
    made = fleet(ten(), Terms(quality=True, quality_seconds=300))
    made.devices[canary(made)].mute = True
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.PAUSED
    assert f"canary {canary(made)} was not known within 300 s" in made.rollout.reason
    good = made.rollout.devices[canary(made)].since
    assert 300 <= made.now - good <= 320


def test_what_cannot_be_compared_is_no_alarm() -> None:
    made = fleet(ten(), Terms(quality=True))
    made.devices[canary(made)].quality = None
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    assert made.rollout.judging.told[canary(made)].why == "not comparable"


def test_without_quality_nobody_is_asked() -> None:
    made = fleet(ten())
    for device in made.devices.values():
        device.quality = 0.0
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.phase == RolloutPhase.DONE
    assert made.rollout.judging.told == {}


def test_a_pause_in_between_does_not_waive_the_quality() -> None:
    made = fleet(ten(), Terms(quality=True))
    made.devices[canary(made)].quality = 0.5
    made.tell(RolloutStarted("me"))
    while made.rollout.wave_phase != WavePhase.JUDGING:
        assert made.step()
    made.tell(PauseOrdered("me"))
    made.tell(ResumeOrdered("me"))
    made.run()
    assert "answers worse" in made.rollout.reason


# --- random fleets ----------------------------------------------------------------------------
habit = st.builds(
    FakeDevice,
    fails=st.sampled_from(["", "", "", "", "stage", "switch", "soak"]),
    away=st.sampled_from([0, 0, 0, 1, 2, 5]),
    soak_seconds=st.sampled_from([0.0, 30.0]),
    quality=st.sampled_from([1.0, 1.0, 0.9, 0.5, None]),
    mute=st.sampled_from([False, False, False, True]),
)
window = st.sampled_from(["", "", "", NIGHT, SHORT])
terms = st.builds(
    Terms,
    parallel=st.integers(1, 4),
    soak_seconds=st.sampled_from([0.0, 100.0]),
    failures=st.integers(0, 2),
    confirm=st.booleans(),
    hook_before=st.sampled_from([[], HOOK]),
    hook_after=st.sampled_from([[], HOOK]),
    quality=st.booleans(),
)
ORDERS = {
    "pause": PauseOrdered("me"),
    "resume": ResumeOrdered("me"),
    "retry": ResumeOrdered("me", retry_failed=True),
    "abort": AbortOrdered("me"),
    "close": WindowChanged(open=False),
    "open": WindowChanged(open=True),
    "rollback": RollbackOrdered("me"),
}
order = st.sampled_from([*ORDERS, "kill"])


class Rules:
    """Checks every effect against the rules; counts what was seen."""

    def __init__(self, made: FakeFleet) -> None:
        self._fleet = made
        made.check = self.check

    def check(self, rollout: Rollout, effects: tuple[RolloutEffect, ...]) -> None:
        busy = [name for name, d in rollout.devices.items() if d.state in WORKED_ON]
        assert len(busy) <= rollout.plan.terms.parallel
        began = [effect for effect in effects if isinstance(effect, (StageOn, SwitchOn))]
        if began:
            assert rollout.phase in (RolloutPhase.RUNNING, RolloutPhase.DONE, RolloutPhase.PAUSED)
        allowed = {name for wave in rollout.waves[: rollout.wave + 1] for name in wave}
        assert {effect.device for effect in began} <= allowed
        for effect in effects:
            if isinstance(effect, SwitchOn):
                assert rollout.window_open
                window = rollout.plan.windows.get(effect.device, "always")
                assert parse_window(window).is_open(self._fleet.now)
        if any(isinstance(effect, GoBackOn) for effect in effects):
            assert rollout.phase in (RolloutPhase.GOING_BACK, RolloutPhase.BACK)
        if rollout.plan.terms.quality and rollout.wave:
            assert rollout.judging.over
            assert not rollout.judging.objection(self._fleet.now)
        for name, device in rollout.devices.items():
            if name not in allowed:
                assert device.state == DeviceState.WAITING


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(habit, window), min_size=1, max_size=14),
    terms,
    st.lists(st.tuples(st.integers(0, 12), order), max_size=8),
    st.integers(0, 2**32),
)
def test_the_rules_hold_whatever_happens(
    habits: list[tuple[FakeDevice, str]], how: Terms, orders: list[tuple[int, str]], seed: int
) -> None:
    names = [f"{'pi' if n % 3 else 'jetson'}-{n}" for n in range(len(habits))]
    devices = {name: device for name, (device, _) in zip(names, habits, strict=True)}
    windows = {name: text for name, (_, text) in zip(names, habits, strict=True) if text}
    made = fleet(devices, how, seed, shares=seed % 2, windows=windows)
    made.now += seed % 86400  # any time of the day
    Rules(made)
    made.tell(RolloutStarted("me"))
    aborted = gone_back = False
    for steps, word in orders:
        for _ in range(steps):
            made.step()
        if word == "kill":
            made.kill()
        else:
            made.tell(ORDERS[word])
        gone_back |= word == "rollback"
        aborted |= made.rollout.phase == RolloutPhase.ABORTED
    replayed = Rollout(made.plan)
    for event, at in made.journal:
        replayed.handle(event, at)
    assert same(replayed, made.rollout)
    made.tell(WindowChanged(open=True))
    for _ in range(60):
        made.run()
        if made.rollout.phase not in (RolloutPhase.PAUSED, RolloutPhase.DONE):
            break
        made.tell(ResumeOrdered("me"))
    if gone_back:
        assert made.rollout.phase == RolloutPhase.BACK
        for name, device in made.devices.items():
            assert device.runs == OLD, name
    elif aborted:
        assert made.rollout.phase == RolloutPhase.ABORTED
    else:
        assert made.rollout.phase == RolloutPhase.DONE
        for name, device in made.devices.items():
            state = made.rollout.devices[name].state
            assert state in ENDED
            assert (device.runs == NEW) == (state == DeviceState.GOOD), (name, state)
            assert state == (DeviceState.FAILED if device.fails else DeviceState.GOOD)
    assert all(device.switches <= 1 or device.fails for device in made.devices.values())


def test_a_thousand_devices_take_seconds_of_a_controller() -> None:
    habits = {f"pi-{number}": FakeDevice(away=number % 7 == 0) for number in range(1000)}
    made = fleet(habits, Terms(parallel=30))
    began = time.process_time()
    made.tell(RolloutStarted("me"))
    made.run()
    assert made.rollout.counts() == {DeviceState.GOOD: 1000}
    assert time.process_time() - began < 5
