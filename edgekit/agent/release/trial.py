"""The trial of a release as a state machine: it takes events, returns effects and does no I/O.

`Trial.handle(event, now)` is the only method; `now` is monotonic seconds. The supervisor's process
(`watch`) performs the effects in order and feeds back the events that they cause. The rules:

1.  The disk alone (`OnDisk`) decides what a supervisor does first. If a supervisor is killed after
    any effect, the next one therefore continues its work.
2.  A trial starts its agent once. The supervisor records the try before it starts the agent. A
    supervisor that finds a recorded try fails the trial: the device or its supervisor went down.
3.  The agent has `trial_seconds` from its start to become ready. If it is ready in time, the
    release is good. That is recorded before `agent.toml.good`, the way back, is removed.
4.  The trial fails when the agent ends, when the deadline passes, when the supervisor cannot start,
    and by rule 2. The supervisor first ends an agent that is too late.
5.  The failure and its reason are recorded before the device goes back. The way back is unfinished
    if `current` names a bad release, or one that was staged again since, or if `agent.toml.good`
    exists and the release has a reason. The next supervisor completes it, or the next activation
    does before it changes anything.
6.  If `agent.toml.good` exists, only a new configuration is on trial: that file becomes
    `agent.toml` again and the release stays good. The row of the release keeps the reason.
7.  Otherwise the release is bad and the device goes back to `previous`: first its configuration,
    then the link `current`. An old release is never current under an untested configuration.
8.  If there is no `previous`, or if it names the failed release, there is no way back: `current` is
    removed and the supervisor exits with 1.
9.  A stop ends the agent and the supervisor without a verdict; the try stays recorded (rule 2). On
    the way back a stop waits until the good release is current, and then ends the supervisor.
10. A device has one supervisor. After going back it becomes the supervisor of `current`: the same
    process keeps the same lock, and holds stop signals in between to lose none.

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
    """The meaning of an event for the supervisor."""

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
    """One step of the supervisor; the table gives the order."""

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
    """The state to which a failed trial returns the device."""

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
# For each way: the steps of `record the failure` and of `go back`, and the phase that follows.
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
    """The ways back from a failed trial as Markdown, for docs/architecture.md."""
    lines = ["| the first that holds | record the failure | go back | then it is |"]
    lines += ["|---|---|---|---|"]
    for way, (record, steps, then) in WAYS.items():
        lines.append(f"| {way} | {record} | {', '.join(steps)} | {then} |")
    return "\n".join(lines)


# --- the machine ------------------------------------------------------------------------------
@dataclass(slots=True)
class Trial:
    """The state of one supervisor's trial; each supervisor starts with a new one."""

    phase: Phase = field(default=Phase.STARTING, init=False)
    _found: OnDisk = field(default=OnDisk(None), init=False)
    _trial_seconds: float = field(default=0.0, init=False)
    _deadline: float | None = field(default=None, init=False)
    _reason: str = field(default="", init=False)

    def handle(self, event: Event, now: float) -> tuple[Effect, ...]:
        """Return the effects to perform after `event`, in this order.

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
        assert release is not None  # every other step belongs to a trial
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
