"""Hands whose devices are those of `rollout_fleet`, in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.core.digest import Digest
from edgekit.fleet.rollout.events import (
    AskVerdict,
    GoBackOn,
    HookEnded,
    QualityTold,
    RolloutEffect,
    RolloutEvent,
    StageOn,
    SwitchOn,
)
from tests.fakes.rollout_fleet import FakeDevice


@dataclass
class FakeHands:
    """Acts on devices that are not there; counts how many are worked on at one time."""

    devices: dict[str, FakeDevice]
    seconds: float = 0.0
    clock: Callable[[], float] = time.time
    stopped: threading.Event = field(default_factory=threading.Event)
    at_work: int = 0
    most: int = 0
    acts: list[RolloutEffect] = field(default_factory=list)
    trouble: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stage(self, device: str) -> RolloutEvent:
        return self._act(device, StageOn(device))

    def switch(self, device: str) -> RolloutEvent:
        return self._act(device, SwitchOn(device))

    def verdict(self, device: str) -> RolloutEvent:
        return self._act(device, AskVerdict(device, 0.0))

    def quality(self, device: str) -> QualityTold | None:
        return self.devices[device].compares(device)

    def go_back(self, device: str, before: Digest | None) -> RolloutEvent:
        return self._act(device, GoBackOn(device, before))

    def hook(self, wave: int, after: bool) -> HookEnded:
        return HookEnded(self.trouble)

    def let_go(self, device: str) -> None: ...

    def stop(self) -> None:
        self.stopped.set()

    def _act(self, name: str, effect: StageOn | SwitchOn | AskVerdict | GoBackOn) -> RolloutEvent:
        with self._lock:
            self.acts.append(effect)
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        self.stopped.wait(self.seconds)
        with self._lock:
            self.at_work -= 1
            return self.devices[name].perform(name, effect, self.clock())
