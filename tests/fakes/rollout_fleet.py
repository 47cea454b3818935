"""A fleet that is not there: devices with habits, and a controller that may be killed.

Devices keep what they have; what a killed controller did not write down is lost, as in life. The
clock jumps from one event to the next.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.core.digest import Digest
from edgekit.core.quality import QualityReport, QualityScore
from edgekit.fleet.rollout.events import (
    AskQuality,
    AskVerdict,
    ClockTicked,
    DeviceAnswers,
    DeviceAway,
    DeviceBack,
    DeviceFailed,
    DeviceGood,
    DeviceStaged,
    GoBackOn,
    HookEnded,
    QualityTold,
    RolloutEffect,
    RolloutEvent,
    RunHook,
    StageOn,
    SwitchOn,
)
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.waves import RolloutPlan

OLD, NEW = "old", "new"
BEFORE = Digest.of(b"old")


@dataclass
class FakeDevice:
    """What one device has, and how it behaves.

    Attributes:
        fails: the step at which it refuses: `stage`, `switch`, `soak`, `back`; empty: none.
        away: how many calls find it away.
        quality: how often its answers agree with the old release's; None: it cannot compare.
        mute: it never says that.
    """

    fails: str = ""
    away: int = 0
    quality: float | None = 1.0
    mute: bool = False
    soak_seconds: float = 30.0
    staged: bool = False
    runs: str = OLD
    good_at: float = 0.0
    switches: int = 0
    judged_bad: str = ""

    def perform(self, name: str, effect: RolloutEffect, now: float) -> RolloutEvent:
        """Do what a controller asks, whoever asked before."""
        if self.away:
            self.away -= 1
            return DeviceAway(name, "no route")
        match effect:
            case StageOn():
                if self.fails == "stage":
                    return DeviceFailed(name, "the disk is too small")
                self.staged = True
                if self.runs == NEW:
                    return self._verdict(name, now)
                return DeviceStaged(name, BEFORE)
            case SwitchOn():
                assert self.staged, "a switch before the bytes were there"
                if self.fails == "switch":
                    self.judged_bad = "golden prompts"
                    return DeviceFailed(name, self.judged_bad)
                if self.runs != NEW:
                    self.runs, self.good_at = NEW, now + self.soak_seconds
                    self.switches, self.judged_bad = self.switches + 1, ""
                return self._verdict(name, now)
            case AskVerdict():
                return self._verdict(name, now)
            case GoBackOn():
                sticks = self.fails == "back"
                self.runs = self.runs if sticks else OLD
                return DeviceFailed(name, "the disk is full") if sticks else DeviceBack(name)
        raise AssertionError(effect)

    def compares(self, name: str) -> QualityTold | None:
        """What it says of the quality of the release."""
        if self.mute:
            return None
        if self.quality is None:
            return QualityTold(name, QualityReport("new", "old", None, "not comparable"))
        score = QualityScore(4, 0, 60, 50, self.quality, 0.01, 1.0, 0.0)
        return QualityTold(name, QualityReport("new", "old", score))

    def _verdict(self, name: str, now: float) -> RolloutEvent:
        if self.judged_bad:
            return DeviceFailed(name, self.judged_bad)
        if self.runs != NEW:
            return DeviceStaged(name, BEFORE)
        if now < self.good_at:
            return DeviceAnswers(name, self.good_at - now)
        if self.fails == "soak":
            self.runs, self.judged_bad = OLD, "it crashed"
            return DeviceFailed(name, self.judged_bad)
        return DeviceGood(name)


@dataclass
class FakeFleet:
    """Devices, a controller and its journal, in simulated time."""

    plan: RolloutPlan
    devices: dict[str, FakeDevice]
    chance: random.Random
    check: Callable[[Rollout, tuple[RolloutEffect, ...]], None] = lambda *_: None
    now: float = 1_000_000.0
    journal: list[tuple[RolloutEvent, float]] = field(default_factory=list)
    rollout: Rollout = field(init=False)
    _due: list[tuple[float, int, RolloutEffect]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.rollout = Rollout(self.plan)

    def tell(self, event: RolloutEvent) -> None:
        """Write an event down, let the rollout take it, and begin what it asks for.

        What the clock says of the windows comes first.
        """
        for change in self.rollout.window_changes(self.now):
            self._take(change)
        self._take(event)

    def _take(self, event: RolloutEvent) -> None:
        self.journal.append((event, self.now))
        effects = self.rollout.handle(event, self.now)
        self.check(self.rollout, effects)
        self._begin(effects)

    def kill(self) -> None:
        """Kill the controller: what is at work is lost; a new one reads the journal."""
        self._due.clear()
        self.rollout = Rollout(self.plan)
        for event, at in self.journal:
            self.rollout.handle(event, at)
        self._begin(self.rollout.outstanding())

    def step(self) -> bool:
        """Let the next thing happen; False if nothing will."""
        wakes = self.rollout.wakes_at()
        if self._due and (wakes is None or self._due[0][0] <= wakes):
            self.now, _, effect = heapq.heappop(self._due)
            if isinstance(effect, RunHook):
                self.tell(HookEnded())
            elif isinstance(effect, AskQuality):
                if (told := self.devices[effect.device].compares(effect.device)) is not None:
                    self.tell(told)
            else:
                device = self.devices[effect.device]
                self.tell(device.perform(effect.device, effect, self.now))
            return True
        if wakes is None:
            return False
        self.now = max(self.now, wakes)
        self.tell(ClockTicked())
        return True

    def run(self, steps: int = 100_000) -> None:
        """Go on until nothing happens any more."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError("the rollout does not end")

    def _begin(self, effects: tuple[RolloutEffect, ...]) -> None:
        for effect in effects:
            begins = max(self.now, effect.at if isinstance(effect, AskVerdict) else 0.0)
            ends = begins + self.chance.uniform(0.1, 20)
            heapq.heappush(self._due, (ends, next(self._numbers), effect))
