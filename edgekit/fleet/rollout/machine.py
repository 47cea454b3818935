"""A rollout as a machine: it takes events, returns effects and does no I/O.

`Rollout.handle(event, now)` is the only way in; `now` is Unix seconds. The journal keeps the
events. Feeding them in again is the only way in which a rollout goes on after its controller ended.
The rules:

1.  Waves go one after the other. A wave ends when each of its devices is good, has failed or is
    away. A device of a later wave is never touched before that.
2.  At most `parallel` devices are worked on at one time. A device is staged first and switched
    then; while its window is closed, or that of the whole rollout, it is staged and not switched.
    Whether a window is open is an event: a replay needs neither clock nor time zones.
3.  A device that fails in the first of several waves pauses the rollout: that is what canaries are
    for. Later more failures than allowed pause it: the larger of a number and a share of the
    devices that were begun. Failures before the last resume do not count again.
4.  A device that is away is neither good nor failed. It comes in again later, with growing pauses,
    also after its wave; where its switch had begun, it is asked for its verdict. An absent canary
    is replaced by another device of its class. A wave of which no device was good pauses the
    rollout; a resume accepts that.
5.  Where `quality` asks for it, the first wave waits for the scores of its good devices. One below
    the bound pauses the rollout, and so does one that is missing in time; a resume accepts that.
    What cannot be compared is said and pauses nothing.
6.  After a wave the rollout waits for the soak, then for the hook, then for a person where
    `confirm` asks for one. A hook that fails pauses it.
7.  A paused rollout begins nothing; what was begun ends. An aborted one never goes on.
8.  A rollback takes back what this rollout has switched, and nothing else. It can be ordered in any
    state, and it pauses for nothing.
9.  Events that come twice or too late change nothing.
"""

from __future__ import annotations

from edgekit.fleet.rollout.budget import FailureBudget
from edgekit.fleet.rollout.device import (
    BEGUN,
    SWITCHABLE,
    WORKED_ON,
    DeviceProgress,
    DeviceState,
    Move,
)
from edgekit.fleet.rollout.events import (
    AbortOrdered,
    AskQuality,
    AskVerdict,
    ClockSet,
    DeviceAnswers,
    DeviceAway,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    GoBackOn,
    HookEnded,
    PauseOrdered,
    QualityTold,
    ResumeOrdered,
    RollbackOrdered,
    RolloutEffect,
    RolloutEvent,
    RolloutStarted,
    RunHook,
    StageOn,
    SwitchOn,
    WindowChanged,
)
from edgekit.fleet.rollout.judging import Judging
from edgekit.fleet.rollout.phases import RolloutPhase, WavePhase
from edgekit.fleet.rollout.roster import Roster
from edgekit.fleet.rollout.waves import RolloutPlan
from edgekit.fleet.rollout.windows.openings import Openings

MOST_LATE_SECONDS = 3600.0
MOST_SOAK_SECONDS = 86_400.0  # a device that says more is asked all the same
ABORTABLE = (RolloutPhase.PLANNED, RolloutPhase.RUNNING, RolloutPhase.PAUSED)


class Rollout:
    """The state of one rollout.

    Args:
        plan: what goes where; it never changes.
    """

    def __init__(self, plan: RolloutPlan) -> None:
        self.plan = plan
        self.phase = RolloutPhase.PLANNED
        self.reason = ""  # why it is paused
        self.wave = 0
        self.wave_phase = WavePhase.NEW
        self.window_open = True
        self.openings = Openings({} if plan.terms.stage_only else plan.windows)
        self._roster = Roster([list(wave) for wave in plan.waves], plan.terms.stage_only)
        self.soak_until = 0.0  # of the present wave, in Unix seconds; 0 before it begins
        self._accepted = -1  # the wave at the last resume
        self._now = 0.0  # of the last event
        self._budget = FailureBudget(plan.terms)
        self.judging = Judging(plan.terms)

    @property
    def waves(self) -> list[list[str]]:
        """Names of devices; where a canary was away, not as in the plan."""
        return self._roster.waves

    @property
    def devices(self) -> dict[str, DeviceProgress]:
        """How each device stands."""
        return self._roster.devices

    # --- the way in ---------------------------------------------------------------------------
    def handle(self, event: RolloutEvent, now: float) -> tuple[RolloutEffect, ...]:
        """Take one event; return the effects that it asks for, in their order."""
        self._now = now
        effects: list[RolloutEffect] = []
        match event:
            case RolloutStarted() if self.phase == RolloutPhase.PLANNED:
                self.phase = RolloutPhase.RUNNING
            case HookEnded(trouble):
                self._hook_ended(trouble)
            case QualityTold(device, report):
                if self.asks_quality_of(device):
                    self.judging.told[device] = report
            case WindowChanged(is_open, ""):
                self.window_open = is_open
            case WindowChanged(is_open, window):
                self.openings.said[window] = is_open
            case PauseOrdered(by, reason) if self.phase == RolloutPhase.RUNNING:
                self._pause(f"{by} paused it" + (f": {reason}" if reason else ""))
            case ResumeOrdered(_, retry):
                self._resume(retry, now)
            case ClockSet(seconds):
                self._roster.shift(seconds)
                self.soak_until += seconds
                self.judging.until += seconds
            case AbortOrdered() if self.phase in ABORTABLE:
                self.phase = RolloutPhase.ABORTED
            case RollbackOrdered() if self.phase != RolloutPhase.BACK:
                self.phase = RolloutPhase.GOING_BACK
            case _:
                effects += self._device(event, now)
        return (*effects, *self._go_on(now))

    def outstanding(self) -> tuple[RolloutEffect, ...]:
        """The effects that were asked for and have not ended: to be done again after a replay.

        Each of them may be done twice on a device without harm.
        """
        found = self._roster.outstanding()
        if self.phase not in (RolloutPhase.RUNNING, RolloutPhase.PAUSED):
            return tuple(found)  # no wave goes on: it needs neither hook nor score
        if self.wave_phase in (WavePhase.HOOK_BEFORE, WavePhase.HOOK_AFTER):
            found.append(RunHook(self.wave + 1, self.wave_phase == WavePhase.HOOK_AFTER))
        found += [AskQuality(n) for n in self.judging.missing() if self.asks_quality_of(n)]
        return tuple(found)

    def wakes_at(self) -> float | None:
        """When a `ClockTicked` can change something, in Unix seconds; None: never by time alone."""
        times = []
        if self.phase == RolloutPhase.RUNNING and self.wave_phase == WavePhase.SOAKING:
            times.append(self.soak_until)
        if self.phase == RolloutPhase.RUNNING and self.wave_phase == WavePhase.JUDGING:
            times.append(self.judging.until)
        room = self._busy() < self.plan.terms.parallel  # else an end of work comes first
        if room and self.phase in (RolloutPhase.RUNNING, RolloutPhase.GOING_BACK):
            back = self.phase == RolloutPhase.GOING_BACK
            away = [self.devices[name] for name in self._roster.names(DeviceState.AWAY)]
            times += [device.due for device in away if device.switched or not back]
            staged = self._roster.names(DeviceState.STAGED)
            times += [] if back else self.openings.looks(staged, self._now)
        return min(times, default=None)

    def window_changes(self, now: float) -> tuple[WindowChanged, ...]:
        """What the clock says of the windows of devices that wait for them: to be told first.

        Whoever runs the rollout writes these events down and lets `handle` take them before any
        other event of that moment. A window of which nothing was said counts as closed.
        """
        if self.phase != RolloutPhase.RUNNING:
            return ()
        names = self._roster.names(*BEGUN) if self.plan.windows else ()
        return tuple(WindowChanged(*told) for told in self.openings.changed(names, now))

    def asks_quality_of(self, device: str) -> bool:
        """Whether the first wave waits for the score of this device."""
        return self.wave_phase == WavePhase.JUDGING and device in self.judging.missing()

    @property
    def over(self) -> bool:
        """Whether nothing is at work and nothing will begin by itself."""
        goes_on = self.phase in (RolloutPhase.RUNNING, RolloutPhase.GOING_BACK)
        return not goes_on and not self._busy()

    def counts(self) -> dict[DeviceState, int]:
        """How many devices stand where; only those that are not 0."""
        return self._roster.counts()

    # --- devices ------------------------------------------------------------------------------
    def _device(self, event: RolloutEvent, now: float) -> list[RolloutEffect]:
        name = getattr(event, "device", "")
        device = self.devices.get(name)
        if device is None:
            return []
        match event:
            case DeviceStaged(_, before):
                if self._roster.move(name, Move.STAGED, now) and not device.switched:
                    device.before = before
            case DeviceAnswers(_, seconds):
                if self._roster.move(name, Move.ANSWERS, now):
                    device.due = now + min(max(seconds, 0.0), MOST_SOAK_SECONDS)
                    return [AskVerdict(name, device.due)]
            case DeviceGood(_, before):
                late = device.tries > 0 and not self.plan.terms.stage_only
                if self._roster.move(name, Move.GOOD, now) and late:
                    device.joined(before, self.plan.release)
            case DeviceFailed(_, reason):
                if self._roster.move(name, Move.FAILED, now, reason):
                    self._count_failure(name)
            case DeviceAway(_, reason):
                if self._roster.move(name, Move.AWAY, now, reason):
                    wait = self.plan.terms.late_seconds * 2**device.tries
                    device.due = now + min(wait, MOST_LATE_SECONDS)
                    device.tries += 1
                    self._replace_canary(name)
            case DeviceBack():
                self._roster.move(name, Move.BACK, now)
        return []

    def _count_failure(self, name: str) -> None:
        """Pause where there are more failures than allowed (rule 3)."""
        if self.phase != RolloutPhase.RUNNING:
            return
        begun = len(self.devices) - self._roster.count([DeviceState.WAITING])
        reason = self.devices[name].reason
        if len(self.waves) > 1 and self.wave == 0:
            self._pause(f"the canary {name} failed: {reason}")
        elif trouble := self._budget.objection(self._failed(), begun):
            self._pause(f"{trouble}; the last, {name}: {reason}")

    def _busy(self) -> int:
        return self._roster.count(WORKED_ON)

    def _failed(self) -> int:
        return self._roster.count([DeviceState.FAILED])

    def _replace_canary(self, name: str) -> None:
        """Take another device of the class into the first wave (rule 4)."""
        if self.wave or len(self.waves) == 1 or self._roster.wave_of(name):
            return
        if (other := self._roster.stand_in(name, self.plan.kinds)) is not None:
            self._roster.replace(name, other)

    # --- the whole ----------------------------------------------------------------------------
    def _pause(self, reason: str) -> None:
        self.phase, self.reason = RolloutPhase.PAUSED, reason

    def _resume(self, retry: bool, now: float) -> None:
        if self.phase not in (RolloutPhase.PAUSED, RolloutPhase.DONE):
            return
        for name in self._roster.names(DeviceState.AWAY):
            self.devices[name].due = now
        for name in self._roster.names(DeviceState.FAILED) if retry else ():
            self._roster.move(name, Move.AGAIN, now)
        self.openings.said = {}  # time has passed: the clock says it anew
        self._budget.forgive(self._failed())
        self._accepted = self.wave
        self.judging.resume(now)
        self.phase, self.reason = RolloutPhase.RUNNING, ""

    def _hook_ended(self, trouble: str) -> None:
        before = self.wave_phase == WavePhase.HOOK_BEFORE
        if not before and self.wave_phase != WavePhase.HOOK_AFTER:
            return
        if trouble:
            # the same hook runs again after a resume
            self.wave_phase = WavePhase.NEW if before else WavePhase.SOAKING
            if self.phase == RolloutPhase.RUNNING:
                place = "before" if before else "after"
                self._pause(f"the hook {place} the wave failed: {trouble}")
        else:
            self.wave_phase = WavePhase.WORKING if before else WavePhase.OVER

    def _go_on(self, now: float) -> list[RolloutEffect]:
        """Begin what can begin."""
        if self.phase == RolloutPhase.GOING_BACK:
            return self._go_back(now)
        effects: list[RolloutEffect] = []
        while self.phase == RolloutPhase.RUNNING:
            effects += self._begin_devices(now)
            if not self._next_phase(now, effects):
                break
        return effects

    def _next_phase(self, now: float, effects: list[RolloutEffect]) -> bool:
        """Move the wave one phase on; whether it moved."""
        terms, phase = self.plan.terms, self.wave_phase
        if phase == WavePhase.NEW:
            self.wave_phase = WavePhase.HOOK_BEFORE if terms.hook_before else WavePhase.WORKING
            if terms.hook_before:
                effects.append(RunHook(self.wave + 1, after=False))
        elif phase == WavePhase.WORKING:
            return self._end_wave(now, effects)
        elif phase == WavePhase.JUDGING:
            return self._judge(now)
        elif phase == WavePhase.SOAKING and now >= self.soak_until:
            self.wave_phase = WavePhase.HOOK_AFTER if terms.hook_after else WavePhase.OVER
            if terms.hook_after:
                effects.append(RunHook(self.wave + 1, after=True))
        elif phase == WavePhase.OVER:
            return self._next_wave()
        else:
            return False
        return True

    def _end_wave(self, now: float, effects: list[RolloutEffect]) -> bool:
        if not self._roster.is_ended(self.wave):
            return False
        mine = {name: self.devices[name] for name in self.waves[self.wave]}
        good = [name for name, device in mine.items() if device.state in self._roster.brought]
        if not good and self._accepted != self.wave:
            away = sum(device.state == DeviceState.AWAY for device in mine.values())
            many = f"{away} of {len(mine)} are away"
            self._pause(f"no device of wave {self.wave + 1} is good; {many}")
            return False
        terms = self.plan.terms
        last = max((mine[name].since for name in good), default=now)
        self.soak_until = last + terms.soak_seconds
        self.wave_phase = WavePhase.SOAKING
        if terms.quality and self.wave == 0 and not terms.stage_only and good:
            self.wave_phase = WavePhase.JUDGING
            self.judging.begin(good, now)
            effects += map(AskQuality, good)
        return True

    def _judge(self, now: float) -> bool:
        """Whether the quality of the first wave holds nothing up any more (rule 5)."""
        if reason := self.judging.objection(now):
            self._pause(reason)
        elif self.judging.over:
            self.wave_phase = WavePhase.SOAKING
            return True
        return False

    def _next_wave(self) -> bool:
        if self.wave + 1 == len(self.waves):
            if all(self._roster.is_ended(wave) for wave in range(len(self.waves))):
                self.phase = RolloutPhase.DONE
            return False
        self.wave, self.wave_phase = self.wave + 1, WavePhase.NEW
        if self.plan.terms.confirm:
            self._pause(f"wave {self.wave} went well and waits for a word")
        return True

    def _begin_devices(self, now: float) -> list[RolloutEffect]:
        """Begin work on devices of this wave and on late ones of earlier waves."""
        effects: list[RolloutEffect] = []
        may = self.window_open and not self.plan.terms.stage_only
        may_switch = self.openings.may_switch if may else lambda _: False
        working = self.wave_phase not in (WavePhase.NEW, WavePhase.HOOK_BEFORE)
        waves = self.wave + int(working)
        room = self.plan.terms.parallel - self._busy()
        for name in self._roster.names(DeviceState.AWAY) if room > 0 else ():
            device = self.devices[name]
            if now < device.due or self._roster.wave_of(name) >= waves:
                continue
            if device.switched:
                self._roster.move(name, Move.ASK, now)
                effects.append(AskVerdict(name, now))
            else:
                self._roster.move(name, Move.AGAIN, now)
        # What is staged goes first: a device holds both releases for a short time only.
        staged = self._roster.names(DeviceState.STAGED) if room > 0 else ()
        for name in [name for name in staged if may_switch(name)][:room]:
            device = self.devices[name]
            self._roster.move(name, Move.SWITCH, now)
            device.switched |= device.before != self.plan.release
            effects.append(SwitchOn(name))
            room -= 1
        while room > 0 and (waits := self._roster.next_waiting(waves)) is not None:
            self._roster.move(waits, Move.STAGE, now)
            effects.append(StageOn(waits))
            room -= 1
        return effects

    def _go_back(self, now: float) -> list[RolloutEffect]:
        effects: list[RolloutEffect] = []
        room = self.plan.terms.parallel - self._busy()
        left = False
        for name in self._roster.unsorted(*SWITCHABLE):
            device = self.devices[name]
            left |= device.switched
            if left and room <= 0:
                break
            due = device.state != DeviceState.AWAY or now >= device.due
            if device.switched and due and self._roster.move(name, Move.GO_BACK, now):
                effects.append(GoBackOn(name, device.before))
                room -= 1
        if not left:
            self.phase = RolloutPhase.BACK
        return effects
