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

from edgekit.agent.release.trial.demands import CRASH_LIMIT
from edgekit.agent.release.trial.events import (
    AgentCrashed,
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    Demands,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    HoldStops,
    KeepRunning,
    Reported,
    RetryDue,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
)
from edgekit.agent.release.trial.machine import Trial
from edgekit.agent.release.trial.table import (
    FAIL,
    TRANSITIONS,
    WAYS,
    Happening,
    Phase,
    TrialStep,
    WayBack,
)
from edgekit.core.digest import Digest
from edgekit.core.golden import Golden, GoldenScore, TrialReport
from edgekit.core.release import ReleaseState
from edgekit.errors import EdgekitError
from tests.fakes.release_disk import KINDS, NEW, OLD, OLDER, Disk, before

TRIAL_SECONDS = 10.0
LAST = (BecomeSuccessor, EndSupervisor)
# What the release on trial does; of the fourth one not even the supervisor starts.
READY, ENDS, MUTE, BROKEN = "ready", "ends", "mute", "broken"
# It soaks well; ends within its soak; reports rubbish; is good and then crashes again and again;
# does not reach the broker, as the release before; reaches it in its third trial.
SOAKS, FADES, UNFIT, CRASHES = "soaks", "ends in its soak", "unfit", "crashes"
CUT_OFF, COMES_BACK = "cut off", "connects later"
PLAIN_MODES = (READY, ENDS, MUTE, BROKEN)
MODES = (*PLAIN_MODES, SOAKS, FADES, UNFIT, CRASHES, CUT_OFF, COMES_BACK)
GOOD_MODES = (READY, SOAKS, COMES_BACK)
SIDES = [(kind, mode) for kind in KINDS for mode in MODES]
SIDES = [side for side in SIDES if side[1] != BROKEN or "configuration" not in side[0]]
GOLDEN = Golden([], soak_seconds=10.0)
RETRIES = 2
MOMENTS = range(24)  # more than twice as many as any story of one trial has effects
LONG = range(70)  # the same with two more trials
WRITES = range(16)  # more than any push has


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
    retried: int = 0  # trials of an unproven release
    reported: bool = False  # by the agent that runs
    shown: set[object] = field(default_factory=set)  # it, once it is ready to soak
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
            if machine.phase == Phase.KEEPING and not events and self.at_rest():
                break
            if machine.phase == Phase.TRYING and self.waits_alone():
                break
            if not effects or not isinstance(effects[-1], LAST):
                continue
            assert machine.phase == Phase.OVER
            assert not any(machine.handle(event, self.now) for event in (StopAsked(), AgentReady()))
            if not isinstance(effects[-1], BecomeSuccessor):
                break
            machine, events, self.stops_held = Trial(), [self.found()], False
        self.trouble()

    def at_rest(self) -> bool:
        """Whether the agent that is kept neither crashes nor has an unproven release to try."""
        waits = NEW in self.disk.unproven and self.retried < RETRIES
        return self.stopping or not (waits or self.crashes())

    def alone(self) -> bool:
        """Whether an unproven first release goes on trying to connect."""
        disk = self.disk
        unproven = disk.unproven.get(NEW, (0, False))[1] and disk.current == NEW
        return unproven and disk.good_config is None and disk.previous in (None, NEW)

    def waits_alone(self) -> bool:
        """Whether it does so for ever."""
        return self.mode == CUT_OFF and self.alone() and not self.stopping

    def crashes(self) -> bool:
        """Whether the kept agent crashes until the device goes back."""
        disk = self.disk
        another = disk.previous not in (None, NEW)
        return self.mode == CRASHES and disk.current == NEW and another

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
                soaks = self.mode in (SOAKS, FADES, UNFIT)
                demands = Demands(GOLDEN if soaks else None, was_connected=False)
                return [AgentStarted(TRIAL_SECONDS, demands)]
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
        self.running, self.reported = (release, config), False
        self.shown.clear()
        row = self.disk.rows[release]
        if row.state == ReleaseState.TRIAL:
            self.trials += 1
            assert row.tries > 0, "the try is not on record"
        else:
            assert self.running in self.answered, "what never answered runs without a trial"

    def look(self) -> Event:
        """What `watch` sees next."""
        self.now += 4.0
        assert self.now < 4000.0, "it waits for ever"
        if self.stopping:
            return StopAsked()
        assert self.running is not None, "nothing runs, and the machine waits"
        if self.disk.rows[self.disk.current or NEW].state != ReleaseState.TRIAL:
            if self.crashes():
                self.running = None
                return AgentCrashed(CRASH_LIMIT, "no memory")
            self.retried += 1
            return RetryDue(NEW)
        return self.look_at_trial()

    def look_at_trial(self) -> Event:
        """What an agent on trial shows: first its report, then what its mode says."""
        if not self.reported and self.mode not in (ENDS, MUTE):
            self.reported = True
            score = GoldenScore(0, 0, 0.5 if self.mode == UNFIT else 1.0, 0.0, 5.0)
            return Reported(TrialReport(loaded=True, score=score))
        if self.mode in (CUT_OFF, COMES_BACK):
            if self.alone():
                self.retried = RETRIES
            if self.mode == CUT_OFF or self.retried < RETRIES:
                return TimePassed()
        if self.mode in (READY, CRASHES, COMES_BACK):
            self.answered.add(self.running or (None, None))
            return AgentReady()
        if self.mode in (SOAKS, FADES) and self.running not in self.shown:
            self.shown.add(self.running)
            return AgentReady()
        if self.mode == SOAKS:
            self.answered.add(self.running or (None, None))
        if self.mode in (SOAKS, MUTE):
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
    tried = disk.config if disk.next_config is None else disk.next_config
    on_trial = disk.current == NEW and disk.rows[NEW].state == ReleaseState.TRIAL
    device = Device(disk, mode, set(kills), set(stops), [*pushes], answered=answered)
    device.live()
    assert device.trials <= 1 + device.pushed + RETRIES + len(stops), "a trial has one start"
    assert device.trials <= 1 + device.pushed or mode in (CUT_OFF, COMES_BACK)
    assert device.running == (disk.current and (disk.current, disk.config))
    if not device.waits_alone():
        assert device.running is None or device.running in answered, "never answered"
        assert disk.good_config is None
        assert disk.current != NEW or disk.rows[NEW].state == ReleaseState.GOOD
    check_links(kind, device)
    if on_trial and not pushes:
        check_verdict(kind, device, tried, calm=not (kills or stops))
    return device


def check_links(kind: str, device: Device) -> None:
    """The way back of before the trial is there again, or that of after it."""
    disk = device.disk
    if not device.waits_alone():
        assert disk.older is None, "it is left"
    if kind == "release with an older one":
        gone = device.mode == CRASHES and disk.previous is None  # it was good in between
        assert disk.previous == (OLD if disk.current == NEW else None if gone else OLDER)
    elif kind == "release":
        assert disk.previous == (OLD if disk.current == NEW else None)


def check_verdict(kind: str, device: Device, tried: str | None, *, calm: bool) -> None:
    """What is on record is what runs, and a failure has its reason.

    Args:
        kind: of the trial.
        device: after its last supervisor.
        tried: the configuration that was on trial.
        calm: nothing was killed or stopped, so its mode alone decides.
    """
    disk, row, mode = device.disk, device.disk.rows[NEW], device.mode
    only_config = "configuration" in kind
    waits = NEW in disk.unproven
    assert (NEW, tried) in device.answered or row.reason or waits, "the failure is not on record"
    if calm:
        crashed = mode == CRASHES and OLD in disk.rows
        assert waits == (mode == CUT_OFF)
        assert bool(row.reason) == (crashed or mode not in (*GOOD_MODES, CUT_OFF, CRASHES))
    if waits and not row.reason:
        assert row.state == (ReleaseState.GOOD if only_config else ReleaseState.TRIAL)
        assert disk.current == (NEW if only_config or kind == "first release" else OLD)
        assert tried in (disk.next_config, disk.config), "its configuration is lost"
    elif not row.reason:
        assert (row.state, device.running) == (ReleaseState.GOOD, (NEW, tried))
    elif only_config and (mode != CRASHES or row.state == ReleaseState.GOOD):
        assert (row.state, device.running) == (ReleaseState.GOOD, (NEW, "old"))
    else:
        assert (row.state, disk.current) == (ReleaseState.BAD, OLD if OLD in disk.rows else None)


def tell_all() -> None:
    """Every story with one trouble, and every one of these with a kill and a stop or two kills."""
    for kind, mode in SIDES:
        moments = LONG if mode in (CUT_OFF, COMES_BACK) else MOMENTS
        for cut in WRITES:
            tell(kind, mode, cut, set(), set(), [])
        for first in moments:
            tell(kind, mode, WRITES[-1], set(), {first}, [])
            tell(kind, mode, WRITES[-1], {first}, set(), [])
    for kind, mode in SIDES:
        for first in MOMENTS:
            for cut in WRITES:
                tell(kind, mode, cut, set(), {first}, [])
                tell(kind, mode, cut, {first}, set(), [])
                tell(kind, mode, WRITES[-1], {first}, set(), [cut])
            for second in MOMENTS if mode in PLAIN_MODES else ():
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
    done = {side: tell(*side, WRITES[-1], set(), set(), []).done for side in SIDES}
    long = {side for side in SIDES if side[1] in (CUT_OFF, COMES_BACK)}
    assert 5 < max(done[side] for side in SIDES if side not in long) < len(MOMENTS)
    assert max(done[side] for side in long) < len(LONG)
    writes = [1 for kind in KINDS for _ in before(kind).push()]
    assert len(writes) < len(KINDS) * len(WRITES)


# Each breaks one rule: a row of the machine's tables, or of its ways back, as it should not be.
BROKEN_RULES: dict[str, tuple[object, object]] = {
    "the try is not recorded": (
        (Phase.STARTING, Happening.NEW_TRIAL),
        (Phase.TRYING, (TrialStep.TAKE_NEXT_CONFIG, TrialStep.START_AGENT)),
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
        (Phase.KEEPING, (TrialStep.KEEP_RUNNING,)),
    ),
    "what to go back to is thrown away before the record": (
        (Phase.TRYING, Happening.READY),
        (
            Phase.KEEPING,
            (TrialStep.FORGET_GOOD_CONFIG, TrialStep.RECORD_ANSWERED, TrialStep.KEEP_RUNNING),
        ),
    ),
    "a configuration that answered is undone": (
        (Phase.STARTING, Happening.ANSWERED_BEFORE),
        (Phase.RETURNING, (TrialStep.GO_BACK,)),
    ),
    "a configuration that answered can still be undone": (
        (Phase.TRYING, Happening.READY),
        (
            Phase.KEEPING,
            (TrialStep.RECORD_ANSWERED, TrialStep.FORGET_OLDER, TrialStep.KEEP_RUNNING),
        ),
    ),
    "the link moves before the configuration": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (
                *(TrialStep.MOVE_CURRENT, TrialStep.RESTORE_PREVIOUS_CONFIG),
                *(TrialStep.RESTORE_OLDER, TrialStep.HOLD_STOPS),
            ),
            Phase.RETURNING,
        ),
    ),
    "the old release keeps the new configuration": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (TrialStep.MOVE_CURRENT, TrialStep.RESTORE_OLDER, TrialStep.HOLD_STOPS),
            Phase.RETURNING,
        ),
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
    "the older release is lost": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (TrialStep.RESTORE_PREVIOUS_CONFIG, TrialStep.MOVE_CURRENT, TrialStep.HOLD_STOPS),
            Phase.RETURNING,
        ),
    ),
    "the older release is left after an answer": (
        (Phase.TRYING, Happening.READY),
        (
            Phase.KEEPING,
            (TrialStep.RECORD_ANSWERED, TrialStep.FORGET_GOOD_CONFIG, TrialStep.KEEP_RUNNING),
        ),
    ),
    "an unproven trial is a failure": (
        (Phase.UNREACHED, Happening.ENDED),
        (Phase.RETURNING, FAIL),
    ),
    "the configuration of an unproven release is lost": (
        (Phase.UNREACHED, Happening.ENDED),
        (Phase.RETURNING, (TrialStep.RECORD_UNPROVEN, TrialStep.GO_BACK)),
    ),
    "an unproven way back is a new trial": (
        (Phase.STARTING, Happening.HALF_UNPROVEN),
        (Phase.TRYING, (TrialStep.COUNT_TRY, TrialStep.START_AGENT)),
    ),
    "a retry starts beside the old agent": (
        (Phase.KEEPING, Happening.RETRY_DUE),
        (Phase.RETURNING, (TrialStep.TRY_AGAIN, TrialStep.HOLD_STOPS)),
    ),
    "a soak is not waited for": (
        (Phase.TRYING, Happening.SOAK),
        (Phase.KEEPING, (TrialStep.RECORD_ANSWERED, TrialStep.KEEP_RUNNING)),
    ),
    "rubbish is left running": (
        (Phase.TRYING, Happening.UNFIT),
        (Phase.RETURNING, FAIL),
    ),
    "a crash loop is not on record": (
        (Phase.KEEPING, Happening.CRASH_LOOP),
        (Phase.RETURNING, (TrialStep.GO_BACK,)),
    ),
    "the successor starts while a stop may be lost": (
        WayBack.PREVIOUS,
        (
            TrialStep.RECORD_FAILED,
            (
                *(TrialStep.RESTORE_PREVIOUS_CONFIG, TrialStep.MOVE_CURRENT),
                *(TrialStep.RESTORE_OLDER, TrialStep.BECOME_SUCCESSOR),
            ),
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
