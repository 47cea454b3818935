"""The trial of a release, killed after every effect: the disk alone says how it goes on.

The machine is the real one. A model of the disk performs its effects as `release.disk` does, and a
model of the supervisor feeds back what `release.watch` would. Whatever is killed, stopped or pushed
again, the end is one that the rules of `release.trial` allow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.release.events import (
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
)
from edgekit.agent.release.trial import (
    FAIL,
    TRANSITIONS,
    WAYS,
    Happening,
    Phase,
    Trial,
    TrialStep,
    WayBack,
)
from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError
from tests.fakes.release_disk import KINDS, NEW, OLD, Disk, before

TRIAL_SECONDS = 10.0
LAST = (BecomeSuccessor, KeepRunning, EndSupervisor)
# What the release on trial does; of the last one not even the supervisor starts.
READY, ENDS, MUTE, BROKEN = "ready", "ends", "mute", "broken"
SIDES = [(kind, mode) for kind in KINDS for mode in (READY, ENDS, MUTE, BROKEN)]
SIDES = [side for side in SIDES if side[1] != BROKEN or "configuration" not in side[0]]
MOMENTS = range(20)  # more than twice as many as any story has effects
WRITES = range(13)  # more than any push has


class KilledError(Exception):
    """The supervisor or the device goes down here."""


@dataclass
class Device:
    """A device on which a push has been, and the troubles that are planned for it.

    Attributes:
        disk: what outlives a kill.
        mode: what the release on trial does.
        kills: before how many effects, counted over all its supervisors, the running one is killed.
        stops: before how many effects a stop comes. A stopped device is started again.
        pushes: for each supervisor that was killed or stopped, first, second and so on: after how
            many writes the next push of the same release is killed, before a supervisor starts.
    """

    disk: Disk
    mode: str
    kills: set[int]
    stops: set[int]
    pushes: list[int]
    done: int = 0  # effects
    now: float = 0.0
    running: tuple[Digest | None, str | None] | None = None  # the agent: release, configuration
    stopping: bool = False
    stops_held: bool = False
    answered: set[tuple[Digest | None, str | None]] = field(default_factory=set)
    trials: int = 0  # starts of an agent on trial
    pushed: int = 0  # pushes after the first one

    def live(self) -> None:
        """A supervisor is started until one keeps an agent running, or nothing is current."""
        for _ in range(50):
            self.running, self.stopping, self.stops_held = None, False, False
            try:
                if self.mode == BROKEN and self.disk.current == NEW:
                    self.cannot_start()
                    continue
                self.supervise()
            except KilledError:
                self.push_again()
                continue
            if not self.stopping:
                return
            self.push_again()
        raise AssertionError("it comes to no end")

    def push_again(self) -> None:
        if self.pushes:
            for _ in islice(self.disk.push(), self.pushes.pop(0)):
                self.check()
            self.pushed += self.disk.current == NEW

    def cannot_start(self) -> None:
        """Without a supervisor it is `activate` that performs; a killed one is called again."""
        if self.disk.rows[NEW].state != ReleaseState.TRIAL:
            for _ in self.disk.push():
                self.check()
        event = SupervisorFailed(self.disk.found(), "cannot start")
        for effect in Trial().handle(event, self.now):
            self.trouble()
            self.disk.perform(effect)
            self.done += 1
            self.check()

    def supervise(self) -> None:
        """One process from its start to its last effect, and those that it becomes."""
        machine, events = Trial(), [self.found()]
        while True:
            effects = machine.handle(events.pop(0) if events else self.look(), self.now)
            for number, effect in enumerate(effects, 1):
                assert number == len(effects) or not isinstance(effect, LAST)
                self.trouble()
                events += self.perform(effect)
                self.done += 1
                self.check()
            if not effects or not isinstance(effects[-1], LAST):
                continue
            assert machine.phase == Phase.OVER
            assert not any(machine.handle(event, self.now) for event in (StopAsked(), AgentReady()))
            if not isinstance(effects[-1], BecomeSuccessor):
                break
            machine, events, self.stops_held = Trial(), [self.found()], False
        self.trouble()

    def found(self) -> Event:
        return self.disk.found()

    def trouble(self) -> None:
        assert self.done < 500, "it comes to no end"
        if self.done in self.kills:
            self.kills.remove(self.done)
            raise KilledError
        if self.done in self.stops:
            self.stops.remove(self.done)
            self.stopping = True

    def perform(self, effect: Effect) -> list[Event]:
        match effect:
            case StartAgent():
                self.start_agent()
                return [AgentStarted(TRIAL_SECONDS)]
            case EndAgent():
                self.running = None
                return [AgentEnded("it was told to")]
            case HoldStops():
                self.stops_held = not self.stopping
                return [StopAsked() if self.stopping else StopsHeld()]
            case BecomeSuccessor():
                assert self.stops_held, "a stop may miss the successor"
                assert self.running is None, "two agents, as of two supervisors"
            case KeepRunning():
                if self.running is None and not self.stopping:
                    self.start_agent()
            case EndSupervisor():
                assert self.running is None, "an agent without a supervisor"
            case _:
                self.disk.perform(effect)
        return []

    def start_agent(self) -> None:
        assert self.running is None, "two agents"
        release, config = self.disk.current, self.disk.config
        assert release is not None
        self.running = (release, config)
        row = self.disk.rows[release]
        if row.state == ReleaseState.TRIAL:
            self.trials += 1
            assert row.tries > 0, "the try is not on record"
        else:
            assert self.running in self.answered, "what never answered runs without a trial"

    def look(self) -> Event:
        """What `watch` sees next."""
        self.now += 4.0
        assert self.now < 2000.0, "it waits for ever"
        if self.stopping:
            return StopAsked()
        assert self.running is not None, "nothing runs, and the machine waits"
        if self.mode == READY:
            self.answered.add(self.running)
            return AgentReady()
        if self.mode == MUTE:
            return TimePassed()
        self.running = None
        return AgentEnded("no memory")

    def check(self) -> None:
        """What holds at every moment."""
        if (release := self.disk.current) == OLD:
            known = (release, self.disk.config) in self.answered
            assert known, "an old release under an untried configuration"


def tell(
    kind: str, mode: str, cut: int, kills: set[int], stops: set[int], pushes: list[int]
) -> Device:
    """One story: a push that is killed after `cut` writes, then the device by itself."""
    disk = before(kind)
    answered = {(disk.current, disk.config), (disk.previous, disk.previous_config)}
    for _ in islice(disk.push(), cut):
        pass
    tried = disk.config
    on_trial = disk.current == NEW and disk.rows[NEW].state == ReleaseState.TRIAL
    device = Device(disk, mode, set(kills), set(stops), [*pushes], answered=answered)
    device.live()
    assert device.trials <= 1 + device.pushed, "a trial has one start"
    assert device.running == (disk.current and (disk.current, disk.config))
    assert device.running is None or device.running in answered, "it ends on what never answered"
    if disk.current == NEW:
        assert disk.good_config is None
        assert disk.rows[NEW].state == ReleaseState.GOOD
    if on_trial and not pushes:
        check_verdict(kind, device, tried, succeeds=None if kills or stops else mode == READY)
    return device


def check_verdict(kind: str, device: Device, tried: str | None, succeeds: bool | None) -> None:
    """What is on record is what runs, and a failure has its reason.

    Args:
        kind: of the trial.
        device: after its last supervisor.
        tried: the configuration that was on trial.
        succeeds: whether it has to end well; None: a kill may have come first.
    """
    disk, row = device.disk, device.disk.rows[NEW]
    assert (NEW, tried) in device.answered or row.reason, "the failure is not on record"
    assert succeeds in (None, not row.reason)
    if not row.reason:
        assert (row.state, device.running) == (ReleaseState.GOOD, (NEW, tried))
    elif "configuration" in kind:
        assert (row.state, device.running) == (ReleaseState.GOOD, (NEW, "old"))
    else:
        assert (row.state, disk.current) == (ReleaseState.BAD, OLD if kind == "release" else None)


def tell_all() -> None:
    """Every story with one trouble, and every one with a kill and a stop or another kill."""
    for kind, mode in SIDES:
        for cut in WRITES:
            tell(kind, mode, cut, set(), set(), [])
            for first in MOMENTS:
                tell(kind, mode, cut, set(), {first}, [])
                tell(kind, mode, cut, {first}, set(), [])
                tell(kind, mode, WRITES[-1], {first}, set(), [cut])
        for first in MOMENTS:
            for second in MOMENTS:
                tell(kind, mode, WRITES[-1], {first}, {second}, [])
                tell(kind, mode, WRITES[-1], {first, second}, set(), [])


def test_a_trial_that_is_killed_or_stopped_at_any_moment_ends_as_the_rules_say() -> None:
    tell_all()


@given(
    side=st.sampled_from(SIDES),
    cut=st.sampled_from(WRITES),
    kills=st.sets(st.sampled_from(MOMENTS)),
    stops=st.sets(st.sampled_from(MOMENTS)),
    pushes=st.lists(st.sampled_from(WRITES), max_size=3),
)
def test_a_trial_under_many_troubles_ends_as_the_rules_say(
    side: tuple[str, str], cut: int, kills: set[int], stops: set[int], pushes: list[int]
) -> None:
    tell(*side, cut, kills, stops, pushes)


def test_no_story_has_more_effects_than_there_are_moments() -> None:
    longest = max(tell(*side, WRITES[-1], set(), set(), []).done for side in SIDES)
    assert 5 < longest < len(MOMENTS) // 2
    writes = [1 for kind in KINDS for _ in before(kind).push()]
    assert len(writes) < len(KINDS) * len(WRITES)


# Each breaks one rule: a row of the machine's tables, or of its ways back, as it should not be.
BROKEN_RULES: dict[str, tuple[object, object]] = {
    "the try is not recorded": (
        (Phase.STARTING, Happening.NEW_TRIAL),
        (Phase.TRYING, (TrialStep.START_AGENT,)),
    ),
    "the try is recorded after the start": (
        (Phase.STARTING, Happening.NEW_TRIAL),
        (Phase.TRYING, (TrialStep.START_AGENT, TrialStep.COUNT_TRY)),
    ),
    "an interrupted trial begins again": (
        (Phase.STARTING, Happening.TRIED_BEFORE),
        (Phase.TRYING, (TrialStep.START_AGENT,)),
    ),
    "going back comes before the record": (
        (Phase.TRYING, Happening.ENDED),
        (Phase.RETURNING, (TrialStep.GO_BACK, TrialStep.RECORD_FAILURE)),
    ),
    "a failure is not recorded": (
        (Phase.TRYING, Happening.ENDED),
        (Phase.RETURNING, (TrialStep.GO_BACK,)),
    ),
    "a late agent is left running": (
        (Phase.TRYING, Happening.DEADLINE),
        (Phase.RETURNING, FAIL),
    ),
    "a stop leaves the agent": ((Phase.TRYING, Happening.STOP), (Phase.OVER, (TrialStep.EXIT,))),
    "a stop is lost on the way back": (
        (Phase.RETURNING, Happening.STOP),
        (Phase.OVER, (TrialStep.BECOME_SUCCESSOR,)),
    ),
    "a way back is not continued": (
        (Phase.STARTING, Happening.HALF_RETURNED),
        (Phase.OVER, (TrialStep.KEEP_RUNNING,)),
    ),
    "what to go back to is thrown away before the record": (
        (Phase.TRYING, Happening.READY),
        (
            Phase.OVER,
            (TrialStep.FORGET_GOOD_CONFIG, TrialStep.RECORD_ANSWERED, TrialStep.KEEP_RUNNING),
        ),
    ),
    "a configuration that answered is undone": (
        (Phase.STARTING, Happening.ANSWERED_BEFORE),
        (Phase.RETURNING, (TrialStep.GO_BACK,)),
    ),
    "a configuration that answered can still be undone": (
        (Phase.TRYING, Happening.READY),
        (Phase.OVER, (TrialStep.RECORD_ANSWERED, TrialStep.KEEP_RUNNING)),
    ),
    "the link moves before the configuration": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (TrialStep.MOVE_CURRENT, TrialStep.RESTORE_PREVIOUS_CONFIG, TrialStep.HOLD_STOPS),
            Phase.RETURNING,
        ),
    ),
    "the old release keeps the new configuration": (
        WayBack.PREVIOUS,
        (TrialStep.RECORD_FAILED, (TrialStep.MOVE_CURRENT, TrialStep.HOLD_STOPS), Phase.RETURNING),
    ),
    "a configuration's failure is the release's": (
        WayBack.CONFIG,
        (
            TrialStep.RECORD_FAILED,
            (TrialStep.RESTORE_GOOD_CONFIG, TrialStep.HOLD_STOPS),
            Phase.RETURNING,
        ),
    ),
    "a failed first release stays": (
        WayBack.NOTHING,
        (TrialStep.RECORD_FAILED, (TrialStep.EXIT_FAILED,), Phase.OVER),
    ),
    "the successor starts while a stop may be lost": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (TrialStep.RESTORE_PREVIOUS_CONFIG, TrialStep.MOVE_CURRENT, TrialStep.BECOME_SUCCESSOR),
            Phase.OVER,
        ),
    ),
}


@pytest.mark.parametrize("rule", BROKEN_RULES)
def test_a_broken_rule_is_found(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key, row = BROKEN_RULES[rule]
    rows: dict[Any, Any] = WAYS if isinstance(key, WayBack) else TRANSITIONS
    assert rows[key] != row
    monkeypatch.setitem(rows, key, row)
    with pytest.raises((AssertionError, EdgekitError)):
        tell_all()
