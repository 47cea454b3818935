"""A controller that is killed at 20 random moments of rollouts to real devices, and resumed.

Four devices (systemd, sshd, the real agent and model, a real Mosquitto) get one release after the
other in three waves, 1 + 1 + 2. The command that runs the rollout is ended with SIGKILL after some
more events of the rollout and some seconds, both by chance with a fixed seed, and `edgekit resume`
goes on. After each kill journal and devices are compared.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bundle.layout import Layout
from edgekit.core.digest import Digest
from edgekit.fleet.rollout.book import holder, number_of
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.events import DeviceGood
from edgekit.fleet.rollout.journal import RolloutJournal, RolloutRow
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import Terms
from tests.fleet.asking import answering, currents
from tests.fleet.devices import Devices, devices
from tests.fleet.project import FleetProject, enroll, project
from tests.fleet.rollouts import begin
from tests.show import Figures
from tests.show.planted import built_smollm2

WAVES = [["edge-1"], ["edge-2"], ["edge-3", "edge-4"]]
KILLS, SEED = 20, 17
EVENTS = (0, 0, 1, 1, 2, 3)  # rows of the journal before a kill, by chance
WITHIN_SECONDS = 8.0  # and as long after them, by chance
EVENT_SECONDS = 300.0
RUN_SECONDS = 1200.0


@dataclass
class Kills:
    """What was seen so far; each list is empty if all is well."""

    kills: int = 0
    rollouts: int = 0
    wrong_release: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    moments: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.wrong_release or self.skipped or self.chain or self.unfinished)


def count() -> tuple[Figures, bool]:
    """The figures, and whether no kill did any harm."""
    return counted(KILLS)


def counted(kills: int) -> tuple[Figures, bool]:
    """The figures of so many kills."""
    started, chance = time.monotonic(), random.Random(SEED)
    model, seen = built_smollm2(), Kills()
    names = [name for wave in WAVES for name in wave]
    with tempfile.TemporaryDirectory(prefix="edgekit-fleet-") as place:
        folder = Path(place) / "fleet"
        with devices(folder, len(names)) as fleet:
            made = project(fleet, folder / "project", model)
            enroll(made, fleet)
            made.edgekit("push", *names)
            while seen.kills < kills and seen.sound:
                seen.rollouts += 1
                bundle = made.pack(f"m{seen.rollouts}", model)
                one_rollout(made, fleet, bundle, kills, seen, chance)
            right = len(answering(made, names))
    figures: Figures = {
        "kills": seen.kills,
        "rollouts": seen.rollouts,
        "devices": len(names),
        "killed_while": ",".join(f"{what}:{n}" for what, n in sorted(seen.moments.items())),
        "wrong_release": ";".join(seen.wrong_release) or 0,
        "skipped": ";".join(seen.skipped) or 0,
        "broken_chains": ";".join(seen.chain) or 0,
        "unfinished": ";".join(seen.unfinished) or 0,
        "answering": right,
        "seconds": round(time.monotonic() - started),
    }
    return figures, seen.sound and seen.kills == kills and right == len(names)


def one_rollout(
    made: FleetProject,
    fleet: Devices,
    bundle: str,
    kills: int,
    seen: Kills,
    chance: random.Random,
    waves: list[list[str]] = WAVES,
) -> None:
    """Run one rollout to its end, and kill its controller on the way until `kills` are seen."""
    old, new = currents(fleet), Layout(made.store).resolve(bundle).digest
    journal = begin(made, new, waves, Terms(parallel=2))
    before: list[RolloutRow] = []
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        with tempfile.TemporaryFile() as said:
            controller = subprocess.Popen(
                [sys.executable, "-m", "edgekit", "resume", str(number_of(journal))],
                cwd=made.folder, env=made.env, stdout=said, stderr=said,
            )  # fmt: skip
            killed = seen.kills < kills and _killed(controller, journal, chance)
            if not killed:
                controller.wait(RUN_SECONDS)
            said.seek(0)
            told = said.read().decode()
        seen.kills += killed
        before = compare(journal, before, fleet, old, new, seen)
        rollout = journal.replay()
        if killed:
            _note(seen, [device.state for device in rollout.devices.values()])
        elif rollout.phase == RolloutPhase.DONE:
            good = {row.event.device for row in before if isinstance(row.event, DeviceGood)}
            seen.skipped += sorted(set(fleet.all) - good)
            states = sorted(device.state for device in rollout.devices.values())
            if set(states) != {DeviceState.GOOD}:
                seen.unfinished.append(f"{bundle}: {states}")
            return
        else:
            seen.unfinished.append(f"{bundle}: {rollout.phase}, {rollout.reason}, {told[-800:]}")
            return
    seen.unfinished.append(f"{bundle}: not within {RUN_SECONDS:g} s")


def _killed(
    controller: subprocess.Popen[bytes], journal: RolloutJournal, chance: random.Random
) -> bool:
    """Kill a controller at a moment after it took the lock; False if it ended before."""
    wanted = len(journal.since(0)) + chance.choice(EVENTS)
    seconds = chance.uniform(0, WITHIN_SECONDS)
    deadline = time.monotonic() + EVENT_SECONDS
    while controller.poll() is None and time.monotonic() < deadline:
        if holder(journal) and len(journal.since(0)) >= wanted:
            break
        time.sleep(0.05)
    try:
        controller.wait(seconds)
    except subprocess.TimeoutExpired:
        controller.send_signal(signal.SIGKILL)
        controller.wait()
        return True
    return False


def compare(
    journal: RolloutJournal,
    before: list[RolloutRow],
    fleet: Devices,
    old: dict[str, str],
    new: Digest,
    seen: Kills,
) -> list[RolloutRow]:
    """Compare the journal with what it was, and with what the devices run; its rows."""
    _, rows, _ = journal.read()  # raises where the chain does not verify
    if rows[: len(before)] != before:
        seen.chain.append(f"rollout {number_of(journal)} lost rows")
    rollout, running = journal.replay(), currents(fleet)
    for name, device in rollout.devices.items():
        allowed = {old[name], new.hex}
        if device.state in (DeviceState.WAITING, DeviceState.STAGING):
            allowed = {old[name]}
        elif device.state == DeviceState.GOOD:
            allowed = {new.hex}
        if running[name] not in allowed:
            seen.wrong_release.append(f"{name} is {device.state} and runs {running[name][:12]}")
    return rows


def _note(seen: Kills, states: list[DeviceState]) -> None:
    """Note at what a controller was killed: the states of devices that are in the middle."""
    middle = sorted({str(s) for s in states} - {str(DeviceState.WAITING), str(DeviceState.GOOD)})
    what = "+".join(middle).replace(" ", "-") or "between"
    seen.moments[what] = seen.moments.get(what, 0) + 1
