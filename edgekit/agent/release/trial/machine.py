"""The trial of a release as a state machine: it takes events, returns effects and does no I/O.

`Trial.handle(event, now)` is the only method; `now` is monotonic seconds. The supervisor's process
(`watch`) performs the effects in order and feeds back the events that they cause. The rules:

1.  The disk alone (`OnDisk`) decides what a supervisor does first. If a supervisor is killed after
    any effect, the next one therefore continues its work.
2.  A trial starts its agent once. The supervisor records the try before it starts the agent. A
    supervisor that finds a recorded try fails the trial: the device or its supervisor went down.
    A try that the disk does not record fails the trial before the agent starts: a release that
    takes the device down would else be tried at every boot. Without a way back the agent starts all
    the same, because nothing else could run.
3.  The agent has `trial_seconds` from its start to show everything that `demands` asks: the model
    is loaded, its golden prompts pass, it is fast enough, it stays under its cap of memory, and the
    broker has accepted it. Then it must run without a crash, and under the cap, for the soak of its
    golden prompts. Then the release is good: that is recorded before `agent.toml.good` and `older`
    are removed.
4.  The trial fails when a report fails, when the agent ends, when the deadline passes, when the
    supervisor cannot start, and by rule 2. The supervisor first ends an agent that still runs.
5.  The failure and its reason are recorded before the device goes back. The way back is unfinished
    if `current` names a bad release, or one that was staged again since, or if `agent.toml.good`
    exists and the release has a reason. The next supervisor completes it, or the next activation
    does before it changes anything.
6.  If `agent.toml.good` exists, only a new configuration is on trial: that file becomes
    `agent.toml` again and the release stays good. The row of the release keeps the reason.
7.  Otherwise the release is bad and the device goes back to `previous`: first its configuration,
    then the link `current`, then `previous` names `older` again. An old release is never current
    under an untested configuration. Each of these steps is a rename: it needs no free space.
8.  If there is no `previous`, or if it names the failed release, there is no way back: `current` is
    removed and the supervisor exits with 1.
9.  A stop ends the agent and the supervisor without a verdict; the try stays recorded (rule 2). On
    the way back a stop waits until the good release is current, and then ends the supervisor.
10. A device has one supervisor. After going back it becomes the supervisor of `current`: the same
    process keeps the same lock, and holds stop signals in between to lose none.
11. Unproven: at the deadline only the broker is missing, and the release before was not connected
    either when the trial began. The device goes back, and `agent.toml` becomes `agent.toml.next`.
    The release stays on trial. The supervisor of the old release begins the trial again after
    `demands.retry_seconds`. Without a way back the agent goes on trying to connect.
12. A good release whose agent ends `CRASH_LIMIT` times in a row, each time within `STEADY_SECONDS`
    of its start, is bad, and the device goes back to `previous`. Without a way back, the agent
    starts again for ever.

`TRANSITIONS` and `WAYS` are these rules as data (`trialtable`). A new event is a value in `events`,
a case in `_happening` and a row there. An event without a row changes nothing.
"""

from __future__ import annotations

import msgspec

from edgekit.agent.release.trial.demands import (
    CRASH_LIMIT,
    STEADY_SECONDS,
    lacks,
    reaches_all_but_the_broker,
    unfit,
)
from edgekit.agent.release.trial.events import (
    ActivationComes,
    AgentCrashed,
    AgentEnded,
    AgentReady,
    AgentStarted,
    BecomeSuccessor,
    CountTry,
    Demands,
    Effect,
    EndAgent,
    EndSupervisor,
    Event,
    ForgetGoodConfig,
    ForgetOlder,
    HoldStops,
    KeepRunning,
    MoveCurrent,
    OnDisk,
    RecordUnproven,
    RecordVerdict,
    Reported,
    RestoreGoodConfig,
    RestoreOlder,
    RestorePreviousConfig,
    RetryDue,
    SetAsideConfig,
    StartAgent,
    StopAsked,
    StopsHeld,
    SupervisorFailed,
    TakeNextConfig,
    TimePassed,
    TryAgain,
    TryUnrecorded,
)
from edgekit.agent.release.trial.table import (
    TRANSITIONS,
    WAYS,
    Happening,
    Phase,
    TrialStep,
    WayBack,
)
from edgekit.core.digest import Digest
from edgekit.core.golden import TrialReport
from edgekit.core.release import ReleaseEvent, ReleaseState

MAX_TRIAL_STARTS = 1
WENT_DOWN = "the device or its supervisor went down during the trial"
SUPERSEDED = "another activation came during the trial"


class Trial(msgspec.Struct):
    """The state of one supervisor's trial; each supervisor starts with a new one."""

    phase: Phase = Phase.STARTING
    _found: OnDisk = OnDisk(None)
    _trial_seconds: float = 0.0
    _deadline: float | None = None
    _demands: Demands = Demands()
    _report: TrialReport = TrialReport()
    _answers: bool = False
    _slots: int | None = None
    _unfit: bool = False
    _soak_until: float | None = None
    _due: Digest | None = None  # the unproven release of a retry
    _reason: str = ""

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
        effects = tuple(self._effect(s) for step in steps for s in spelled.get(step, (step,)))
        if self.phase == Phase.KEEPING:  # `agent.toml.good` is removed, and a trial has ended well
            trial = self._found.state == ReleaseState.TRIAL
            state = ReleaseState.GOOD if trial else self._found.state
            self._found = msgspec.structs.replace(self._found, good_config=False, state=state)
        return effects

    def soak_left(self, now: float) -> float | None:
        """Seconds until the release is good, while it soaks; else None."""
        if self.phase != Phase.SOAKING or self._soak_until is None:
            return None
        return max(self._soak_until - now, 0.0)

    def _happening(self, event: Event, now: float) -> Happening | None:  # noqa: PLR0911  one for each event
        match event:
            case OnDisk():
                self._found = event
                return self._at_start(event)
            case SupervisorFailed(found, reason):
                self._found, self._reason = found, reason
                on_trial = found.state == ReleaseState.TRIAL
                return Happening.CANNOT_START if on_trial else None
            case ActivationComes(found):
                self._found, self._reason = found, SUPERSEDED
                if found.state != ReleaseState.TRIAL or found.unproven:
                    happening = self._at_start(found)
                    return None if happening == Happening.NEW_TRIAL else happening
                return Happening.SUPERSEDED if found.good_config else None
            case TryUnrecorded(reason):
                self._reason = f"its try cannot be recorded: {reason}"
                alone = self._way() == WayBack.NOTHING
                return Happening.UNRECORDED_ALONE if alone else Happening.UNRECORDED
            case AgentStarted(seconds, demands):
                self._trial_seconds, self._deadline = seconds, now + seconds
                self._demands = demands
            case AgentReady(slots):
                self._answers, self._slots = True, slots
                return self._shown(now)
            case Reported(report):
                self._report = report
                return self._shown(now)
            case AgentEnded(log):
                return self._ended(log)
            case AgentCrashed(times, log):
                return self._crashed(times, log)
            case RetryDue(release):
                self._due = release
                return Happening.RETRY_DUE
            case TimePassed():
                return self._time(now)
            case StopAsked():
                return Happening.STOP
            case StopsHeld():
                return Happening.STOPS_HELD
        return None

    def _shown(self, now: float) -> Happening | None:
        """What a report or an answer means during a trial."""
        if self.phase not in (Phase.TRYING, Phase.SOAKING):
            return None
        if why := unfit(self._demands, self._report, self._slots):
            self._reason, self._unfit = why, True
            return Happening.UNFIT
        if self.phase == Phase.SOAKING or lacks(self._demands, self._report, answers=self._answers):
            return None
        golden = self._demands.golden
        if golden is None or golden.soak_seconds <= 0:
            return Happening.READY
        self._soak_until = now + golden.soak_seconds
        return Happening.SOAK

    def _ended(self, log: str) -> Happening:
        if self.phase == Phase.SOAKING and self._demands.golden is not None:
            soak = self._demands.golden.soak_seconds
            self._reason = f"the agent ended within the soak of {soak:g} s after its answer"
        elif self.phase == Phase.TRYING:
            self._reason = "the agent ended"
        if log and self.phase != Phase.UNREACHED and not self._unfit:
            self._reason = f"{self._reason}: {log}"
        return Happening.ENDED

    def _crashed(self, times: int, log: str) -> Happening | None:
        good = self._found.state == ReleaseState.GOOD
        if times < CRASH_LIMIT or not good or self._way() != WayBack.PREVIOUS:
            return None
        self._reason = (
            f"the agent ended {times} times in a row, each time within {STEADY_SECONDS:g} s of its "
            f"start; {CRASH_LIMIT} are allowed: {log}"
        )
        return Happening.CRASH_LOOP

    def _time(self, now: float) -> Happening | None:
        if self.phase == Phase.SOAKING:
            return Happening.SOAKED if self.soak_left(now) == 0 else None
        if self._deadline is None or now <= self._deadline:
            return None
        if not reaches_all_but_the_broker(self._demands, self._report):
            lacking = lacks(self._demands, self._report, answers=self._answers)
            self._reason = f"{lacking} within {self._trial_seconds:g} s"
            return Happening.DEADLINE
        where = f"no connection to {self._demands.broker} within {self._trial_seconds:g} s"
        if self._demands.was_connected:
            self._reason = f"{where}, the release before was connected when the trial began"
            return Happening.DEADLINE
        self._reason = f"{where}, the release before had none either; everything else passed"
        if self._way() == WayBack.NOTHING:
            self._deadline = None
            return Happening.UNREACHED_ALONE
        return Happening.UNREACHED

    def _at_start(self, found: OnDisk) -> Happening:
        on_trial = found.state == ReleaseState.TRIAL
        if found.release is None:
            return Happening.NOTHING_ACTIVE
        if found.unproven and (on_trial or found.good_config):
            alone = self._way() == WayBack.NOTHING
            return Happening.NEW_TRIAL if alone else Happening.HALF_UNPROVEN
        if on_trial:
            if found.tries < MAX_TRIAL_STARTS:
                return Happening.NEW_TRIAL
            self._reason = WENT_DOWN
            return Happening.TRIED_BEFORE
        if found.state == ReleaseState.GOOD and found.good_config and not found.reason:
            return Happening.ANSWERED_BEFORE
        if found.state in (ReleaseState.BAD, ReleaseState.STAGED) or found.good_config:
            return Happening.HALF_RETURNED
        if found.previous == found.release or (found.previous is None and found.older is not None):
            return Happening.OLDER_LOST
        return Happening.SETTLED if found.older is None else Happening.OLDER_LEFT

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
        if step == TrialStep.TRY_AGAIN:
            assert self._due is not None  # the event that leads here names it
            return TryAgain(self._due)
        assert release is not None  # every other step belongs to a trial
        if step == TrialStep.COUNT_TRY:
            return CountTry(release)
        if step == TrialStep.TAKE_NEXT_CONFIG:
            return TakeNextConfig(release)
        if step == TrialStep.RECORD_UNPROVEN:
            return RecordUnproven(release, self._reason, self._way() == WayBack.CONFIG)
        event = RECORDS[step]
        return RecordVerdict(release, event, "" if event == ReleaseEvent.ANSWERED else self._reason)


PLAIN: dict[TrialStep, Effect] = {
    TrialStep.START_AGENT: StartAgent(),
    TrialStep.END_AGENT: EndAgent(),
    TrialStep.FORGET_GOOD_CONFIG: ForgetGoodConfig(),
    TrialStep.FORGET_OLDER: ForgetOlder(),
    TrialStep.SET_ASIDE_CONFIG: SetAsideConfig(),
    TrialStep.RESTORE_GOOD_CONFIG: RestoreGoodConfig(),
    TrialStep.RESTORE_PREVIOUS_CONFIG: RestorePreviousConfig(),
    TrialStep.RESTORE_OLDER: RestoreOlder(),
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
    TrialStep.RECORD_CRASHED: ReleaseEvent.CRASHED,
}
