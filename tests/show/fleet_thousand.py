"""A rollout to 1,000 devices that are not there, by the real runner with its real journal.

The controller is a process of its own, so its CPU time and memory are those of the rollout alone.
Of the devices 20 refuse the release and 30 are away at first; one that is still away when all
others have ended joins after a resume. Connections are counted as the real
hands hold them: from staging to the switch, and as long as any other act lasts.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.core.digest import Digest
from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import (
    AskVerdict,
    GoBackOn,
    RolloutEvent,
    RolloutStarted,
    StageOn,
    SwitchOn,
)
from edgekit.fleet.rollout.machine import Rollout
from edgekit.fleet.rollout.run import run
from edgekit.fleet.rollout.waves import RolloutPlan, Terms, waves_of
from tests.fakes.rollout_fleet import NEW, FakeDevice
from tests.fakes.rollout_hands import FakeHands
from tests.show import Figures

DEVICES, REFUSE, AWAY = 1000, 20, 30
KINDS = ("aarch64 4 GB", "aarch64 8 GB", "x86_64 16 GB")
BOUND = 32  # connections at one time
ACT_SECONDS, SOAK_SECONDS, LATE_SECONDS = 0.02, 1.0, 1.0
RELEASE = Digest.of(b"release")


@dataclass
class CountedHands(FakeHands):
    """Fake hands that hold connections as the real ones do, and count them."""

    connected: set[str] = field(default_factory=set)
    most_connected: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def _act(self, name: str, effect: StageOn | SwitchOn | AskVerdict | GoBackOn) -> RolloutEvent:
        with self._counting:
            self.connected.add(name)
            self.most_connected = max(self.most_connected, len(self.connected))
        event = super()._act(name, effect)
        if not isinstance(effect, StageOn):
            self.let_go(name)
        return event

    def let_go(self, device: str) -> None:
        with self._counting:
            self.connected.discard(device)


def count() -> tuple[Figures, bool]:
    """The figures, and whether every device is where it must be and the bound held."""
    return counted(DEVICES, REFUSE, AWAY)


def counted(devices: int, refuse: int, away: int) -> tuple[Figures, bool]:
    """Run the controller; the figures of a fleet of that size."""
    argv = [sys.executable, "-m", __name__, *map(str, (devices, refuse, away))]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600)
    figures: Figures = json.loads(done.stdout)
    sound = (
        int(str(figures["good"])) + int(str(figures["still_away"])) == devices - refuse
        and figures["failed"] == refuse
        and figures["run_the_release"] == figures["good"]
        and figures["switched_twice"] == 0
        and 1 < int(str(figures["connections_at_once"])) <= BOUND
        and figures["replay_is_equal"]
    )
    return figures, bool(sound)


def main(devices: int, refuse: int, away: int) -> None:
    """Be the controller, and print the figures."""
    chance = random.Random(17)
    names = [f"device-{number:04}" for number in range(devices)]
    kinds = {name: KINDS[number % len(KINDS)] for number, name in enumerate(names)}
    terms = Terms(parallel=BOUND, late_seconds=LATE_SECONDS)
    plan = RolloutPlan(RELEASE, waves_of(kinds, RELEASE), kinds, terms)
    fleet = {name: FakeDevice(soak_seconds=SOAK_SECONDS) for name in names}
    later = [name for wave in plan.waves[1:] for name in wave]
    for number, name in enumerate(chance.sample(later, refuse + away)):
        if number < refuse:
            fleet[name].fails = ("stage", "switch", "soak")[number % 3]
        else:
            fleet[name].away = 1 + number % 3
    hands = CountedHands(fleet, seconds=ACT_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        _, journal = RolloutBook(Path(folder)).create(plan, time.time())
        journal.append(RolloutStarted("count@here"), time.time())
        before = _memory_mb()
        began, cpu = time.monotonic(), time.process_time()
        rollout: Rollout = run(journal, hands, lambda *_: None, "count@here")
        cpu, wall = time.process_time() - cpu, time.monotonic() - began
        began = time.process_time()
        replayed = journal.replay()  # raises where the chain of hashes is broken
        replay_seconds = time.process_time() - began
        rows = len(journal.read()[1])
    counts = rollout.counts()
    print(
        json.dumps(
            {
                "devices": devices,
                "waves": "+".join(str(len(wave)) for wave in rollout.waves),
                "good": counts.get(DeviceState.GOOD, 0),
                "failed": counts.get(DeviceState.FAILED, 0),
                "were_away": away,
                "still_away": counts.get(DeviceState.AWAY, 0),
                "run_the_release": sum(device.runs == NEW for device in fleet.values()),
                "switched_twice": sum(device.switches > 1 for device in fleet.values()),
                "connections_at_once": hands.most_connected,
                "bound": BOUND,
                "cpu_seconds": round(cpu, 2),
                "seconds": round(wall, 1),
                "peak_mb": _memory_mb(),
                "mb_before": before,
                "rows": rows,
                "replay_seconds": round(replay_seconds, 2),
                "replay_is_equal": vars(replayed) == vars(rollout),
            }
        )
    )


def _memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
