"""The trial of a release as a machine: events in, effects out, nothing touched.

`Trial.handle(event, now)` is the only method; `now` is monotonic seconds. The supervisor's process
(`watch`) performs the effects, one after the other, and feeds back what they lead to. The rules:

1.  What a supervisor does first follows from the disk alone (`OnDisk`). A supervisor that is killed
    after any effect is therefore continued by the next one.
2.  A trial has one start. The try is on record before the agent starts; a supervisor that finds it
    there calls the trial failed, because the device or the supervisor went down during it.
3.  The agent has `trial_seconds` from its start to become ready. Ready in time is good: that is on
    record before `agent.toml.good`, which is what to go back to, goes away.
4.  The trial fails when the agent ends, when the deadline passes, when the supervisor cannot start,
    and by rule 2. An agent that is too late is ended before anything else happens.
5.  The failure and its reason are on record before anything goes back. The way back is to be
    continued where `current` names a bad release, or one that has been staged again since, or where
    `agent.toml.good` stands beside a reason. The next supervisor continues it, or the next
    activation before it changes anything.
6.  Where `agent.toml.good` exists, only a new configuration is on trial: that file becomes
    `agent.toml` again and the release stays good. The reason is kept in its row.
7.  Otherwise the release is bad and `previous` comes back: first its configuration, then the link
    `current`. An old release is never current under a configuration that nobody tried.
8.  Without a `previous`, or where it is the failed release itself, there is nothing to go back to:
    `current` goes away and the supervisor ends with a failure.
9.  A stop ends the agent and the supervisor without a verdict; the try stays on record (rule 2).
    On the way back a stop waits until what was good is current, and then ends the supervisor.
10. A device has one supervisor. The one that went back becomes the supervisor of what is current:
    the same process under the same lock, with stops held so that none is lost in between.

`TRANSITIONS` and `WAYS` are these rules as data; docs/architecture.md prints them. A new event is a
value in `events`, a case in `_happening` and a row here. An event without a row changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from edgekit.agent.release.events import (
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    CountTry,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    ForgetGoodConfig,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    OnDisk,
    RecordVerdict,
    RestoreGoodConfig,
    RestorePreviousConfig,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TimePassed,
)
from edgekit.core.release import ReleaseEvent, ReleaseState

MAX_TRIAL_STARTS = 1
WENT_DOWN = "the device or its supervisor went down during the trial"


# --- the table --------------------------------------------------------------------------------
class Phase(StrEnum):
    """Where the supervisor is."""

    STARTING = "starting"
    TRYING = "trying"
    TOO_LATE = "too late"
    RETURNING = "going back"
    OVER = "over"


class Happening(StrEnum):
    """What an event means here."""

    NOTHING_ACTIVE = "no release is current"
    SETTLED = "no trial, and nothing left of one"
    NEW_TRIAL = "a trial that no supervisor began"
    TRIED_BEFORE = "a trial that a supervisor began"
    ANSWERED_BEFORE = "`agent.toml.good` is left, the release is good and without a reason"
    HALF_RETURNED = "`agent.toml.good` is left otherwise, or the release is bad or staged"
    CANNOT_START = "the supervisor of a trial cannot start"
    READY = "agent is ready"
    ENDED = "agent ended"
    DEADLINE = "deadline passed"
    STOP = "stop"
    STOPS_HELD = "stops are held"


class TrialStep(StrEnum):
    """What the supervisor does, in the order in which it stands in the table."""

    COUNT_TRY = "record the try"
    START_AGENT = "start the agent"
    END_AGENT = "end the agent"
    FORGET_GOOD_CONFIG = "remove `agent.toml.good`"
    RECORD_ANSWERED = "record `answered`"
    RECORD_FAILED = "record `failed`"
    RECORD_RESTORED = "record `restored`"
    RECORD_FAILURE = "record the failure"
    GO_BACK = "go back"
    RESTORE_GOOD_CONFIG = "`agent.toml.good` becomes `agent.toml`"
    RESTORE_PREVIOUS_CONFIG = "`agent.toml.previous` becomes `agent.toml`"
    MOVE_CURRENT = "`current` names `previous`"
    REMOVE_CURRENT = "remove `current`"
    HOLD_STOPS = "hold stops"
    BECOME_SUCCESSOR = "become the successor"
    KEEP_RUNNING = "keep the agent running"
    EXIT = "exit with 0"
    EXIT_FAILED = "exit with 1"


class WayBack(StrEnum):
    """What a failed trial goes back to."""

    CONFIG = "`agent.toml.good` exists"
    PREVIOUS = "`previous` names another release"
    NOTHING = "neither"


FAIL = (TrialStep.RECORD_FAILURE, TrialStep.GO_BACK)
TRANSITIONS: dict[tuple[Phase, Happening], tuple[Phase, tuple[TrialStep, ...]]] = {
    (Phase.STARTING, Happening.NOTHING_ACTIVE): (Phase.OVER, (TrialStep.EXIT,)),
    (Phase.STARTING, Happening.SETTLED): (Phase.OVER, (TrialStep.KEEP_RUNNING,)),
    (Phase.STARTING, Happening.NEW_TRIAL): (
        Phase.TRYING,
        (TrialStep.COUNT_TRY, TrialStep.START_AGENT),
    ),
    (Phase.STARTING, Happening.TRIED_BEFORE): (Phase.RETURNING, FAIL),
    (Phase.STARTING, Happening.CANNOT_START): (Phase.RETURNING, FAIL),
    (Phase.STARTING, Happening.ANSWERED_BEFORE): (
        Phase.OVER,
        (TrialStep.FORGET_GOOD_CONFIG, TrialStep.KEEP_RUNNING),
    ),
    (Phase.STARTING, Happening.HALF_RETURNED): (Phase.RETURNING, (TrialStep.GO_BACK,)),
    (Phase.TRYING, Happening.READY): (
        Phase.OVER,
        (TrialStep.RECORD_ANSWERED, TrialStep.FORGET_GOOD_CONFIG, TrialStep.KEEP_RUNNING),
    ),
    (Phase.TRYING, Happening.ENDED): (Phase.RETURNING, FAIL),
    (Phase.TRYING, Happening.DEADLINE): (Phase.TOO_LATE, (TrialStep.END_AGENT,)),
    (Phase.TRYING, Happening.STOP): (Phase.OVER, (TrialStep.END_AGENT, TrialStep.EXIT)),
    (Phase.TOO_LATE, Happening.ENDED): (Phase.RETURNING, FAIL),
    (Phase.RETURNING, Happening.STOPS_HELD): (Phase.OVER, (TrialStep.BECOME_SUCCESSOR,)),
    (Phase.RETURNING, Happening.STOP): (Phase.OVER, (TrialStep.EXIT,)),
}
# For each way: what `record the failure` and `go back` stand for, and where that leads.
WAYS: dict[WayBack, tuple[TrialStep, tuple[TrialStep, ...], Phase]] = {
    WayBack.CONFIG: (
        TrialStep.RECORD_RESTORED,
        (TrialStep.RESTORE_GOOD_CONFIG, TrialStep.HOLD_STOPS),
        Phase.RETURNING,
    ),
    WayBack.PREVIOUS: (
        TrialStep.RECORD_FAILED,
        (TrialStep.RESTORE_PREVIOUS_CONFIG, TrialStep.MOVE_CURRENT, TrialStep.HOLD_STOPS),
        Phase.RETURNING,
    ),
    WayBack.NOTHING: (
        TrialStep.RECORD_FAILED,
        (TrialStep.REMOVE_CURRENT, TrialStep.EXIT_FAILED),
        Phase.OVER,
    ),
}


def table() -> str:
    """The transitions as Markdown, for docs/architecture.md."""
    lines = ["| supervisor is | what happens | what it does | then it is |", "|---|---|---|---|"]
    for (phase, happening), (then, steps) in TRANSITIONS.items():
        lines.append(f"| {phase} | {happening} | {', '.join(steps)} | {then} |")
    return "\n".join(lines)


def ways_table() -> str:
    """What a failed trial goes back to as Markdown, for docs/architecture.md."""
    lines = ["| the first that holds | record the failure | go back | then it is |"]
    lines += ["|---|---|---|---|"]
    for way, (record, steps, then) in WAYS.items():
        lines.append(f"| {way} | {record} | {', '.join(steps)} | {then} |")
    return "\n".join(lines)


# --- the machine ------------------------------------------------------------------------------
@dataclass(slots=True)
class Trial:
    """One supervisor's judgement of what it finds; a new supervisor has a new one."""

    phase: Phase = field(default=Phase.STARTING, init=False)
    _found: OnDisk = field(default=OnDisk(None), init=False)
    _trial_seconds: float = field(default=0.0, init=False)
    _deadline: float | None = field(default=None, init=False)
    _reason: str = field(default="", init=False)

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """What is to be done now that `event` happened, in this order.

        Args:
            event: what happened.
            now: monotonic seconds.
        """
        happening = self._happening(event, now)
        if happening is None or (self.phase, happening) not in TRANSITIONS:
            return ()
        self.phase, steps = TRANSITIONS[self.phase, happening]
        record, back, then = WAYS[self._way()]
        if TrialStep.GO_BACK in steps:
            self.phase = then
        spelled = {TrialStep.RECORD_FAILURE: (record,), TrialStep.GO_BACK: back}
        return tuple(self._effect(each) for step in steps for each in spelled.get(step, (step,)))

    def _happening(self, event: Event, now: float) -> Happening | None:
        match event:
            case OnDisk():
                self._found = event
                return self._at_start(event)
            case SupervisorFailed(found, reason):
                self._found, self._reason = found, reason
                on_trial = found.state == ReleaseState.TRIAL
                return Happening.CANNOT_START if on_trial else None
            case AgentStarted(seconds):
                self._trial_seconds, self._deadline = seconds, now + seconds
            case AgentReady():
                return Happening.READY
            case AgentEnded(log):
                late = self.phase == Phase.TOO_LATE
                why = f"no answer within {self._trial_seconds:g} s" if late else "the agent ended"
                self._reason = f"{why}: {log}"
                return Happening.ENDED
            case TimePassed() if self._deadline is not None and now > self._deadline:
                return Happening.DEADLINE
            case StopAsked():
                return Happening.STOP
            case StopsHeld():
                return Happening.STOPS_HELD
        return None

    def _at_start(self, found: OnDisk) -> Happening:
        if found.release is None:
            return Happening.NOTHING_ACTIVE
        if found.state == ReleaseState.TRIAL:
            if found.tries < MAX_TRIAL_STARTS:
                return Happening.NEW_TRIAL
            self._reason = WENT_DOWN
            return Happening.TRIED_BEFORE
        if found.state == ReleaseState.GOOD and found.good_config and not found.reason:
            return Happening.ANSWERED_BEFORE
        if found.state in (ReleaseState.BAD, ReleaseState.STAGED) or found.good_config:
            return Happening.HALF_RETURNED
        return Happening.SETTLED

    def _way(self) -> WayBack:
        if self._found.good_config:
            return WayBack.CONFIG
        if self._found.previous in (None, self._found.release):
            return WayBack.NOTHING
        return WayBack.PREVIOUS

    def _effect(self, step: TrialStep) -> Effect:
        release = self._found.release
        if step in PLAIN:
            return PLAIN[step]
        if step == TrialStep.MOVE_CURRENT:
            return MoveCurrent(self._found.previous)
        assert release is not None  # every other step is of a trial
        if step == TrialStep.COUNT_TRY:
            return CountTry(release)
        event = RECORDS[step]
        return RecordVerdict(release, event, "" if event == ReleaseEvent.ANSWERED else self._reason)


PLAIN: dict[TrialStep, Effect] = {
    TrialStep.START_AGENT: StartAgent(),
    TrialStep.END_AGENT: EndAgent(),
    TrialStep.FORGET_GOOD_CONFIG: ForgetGoodConfig(),
    TrialStep.RESTORE_GOOD_CONFIG: RestoreGoodConfig(),
    TrialStep.RESTORE_PREVIOUS_CONFIG: RestorePreviousConfig(),
    TrialStep.REMOVE_CURRENT: MoveCurrent(None),
    TrialStep.HOLD_STOPS: HoldStops(),
    TrialStep.BECOME_SUCCESSOR: BecomeSuccessor(),
    TrialStep.KEEP_RUNNING: KeepRunning(),
    TrialStep.EXIT: EndSupervisor(0),
    TrialStep.EXIT_FAILED: EndSupervisor(1),
}
RECORDS = {
    TrialStep.RECORD_ANSWERED: ReleaseEvent.ANSWERED,
    TrialStep.RECORD_FAILED: ReleaseEvent.FAILED,
    TrialStep.RECORD_RESTORED: ReleaseEvent.RESTORED,
}
