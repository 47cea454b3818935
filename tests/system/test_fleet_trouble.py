"""What goes wrong on one device of a fleet: it says so, and the others go on. All of it is real."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.far import far
from edgekit.builder.tools.host import HostToolchain
from edgekit.bundle.layout import Layout
from edgekit.fleet.rollout.device import DeviceState
from edgekit.fleet.rollout.phases import RolloutPhase
from edgekit.fleet.rollout.waves import Terms
from tests.building import run_script, silent
from tests.faults.bad_release import make_bad, with_weights
from tests.fleet import trouble
from tests.fleet.asking import answering, currents
from tests.fleet.devices import Devices, devices
from tests.fleet.project import FleetProject, enroll, project
from tests.fleet.rollouts import Stand, begin, newest
from tests.harness.units import ROOT
from tests.show.controller_kills import SEED, Kills, one_rollout
from tests.show.reboots import BEGUN
from tests.tools import eventually

pytestmark = pytest.mark.timeout(1200)
NAMES = ["edge-1", "edge-2", "edge-3"]
SMALL, SMALL_MB = "edge-3", 1500  # the device whose disk can be filled
BLOB_BYTES = 80 << 20  # the weights of SmolLM2 have a little more
GOOD, FAILED, AWAY = DeviceState.GOOD, DeviceState.FAILED, DeviceState.AWAY
STAGED = DeviceState.STAGED


class Fleet:
    """Three devices, their project, and the releases that it packs."""

    def __init__(self, at: Devices, made: FleetProject, model: Path) -> None:
        self.at, self.made, self._model = at, made, model
        self._packed = 1

    def pack(self) -> str:
        """Another release of the same model; the name of its bundle."""
        self._packed += 1
        return self.made.pack(f"r{self._packed}", self._model)

    def digest(self, bundle: str) -> str:
        return Layout(self.made.store).resolve(bundle).digest.hex

    def runs(self) -> list[str]:
        """What each device runs."""
        return [currents(self.at)[name] for name in NAMES]

    def holds(self, bundle: str) -> list[bool]:
        """Which of the devices have the whole release, whether they run it or not."""
        staged = f"{ROOT}/releases/{self.digest(bundle)}"
        return [self.at.all[name].code("test", "-e", staged) == 0 for name in NAMES]

    def push(self, bundle: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Push to all devices, and wait for what they say."""
        return self.made.run("push", *NAMES, "--bundle", bundle, "--wait", *more)

    def stand(self) -> Stand:
        return newest(self.made)

    def line(self, device: str) -> str:
        """What `edgekit status` says of a device."""
        lines = self.made.edgekit("status").splitlines()
        return next(line for line in lines if line.startswith(device))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    with devices(folder, len(NAMES), memory="3g") as at:
        trouble.small_disk(at.all[SMALL], SMALL_MB)
        made = project(at, folder / "project", smollm2)
        enroll(made, at)
        made.edgekit("push", *NAMES, "--wait")
        yield Fleet(at, made, smollm2)


def test_a_bad_model_on_the_canary_pauses_and_touches_no_other(
    fleet: Fleet, tmp_path: Path
) -> None:
    def zeroed(folder: Path) -> None:
        python = HostToolchain().ready(silent).python
        run_script(python, "faults/plant.py", "layer_zeroed", folder)

    before = fleet.runs()
    store = Layout(fleet.made.store)
    bad = make_bad(store, "smollm2:1", "bad:1", with_weights(zeroed, tmp_path))
    fleet.made.edgekit("sign", "bad:1")
    journal = begin(fleet.made, bad, [["edge-1"], ["edge-2", "edge-3"]], Terms())
    resumed = fleet.made.run("resume", journal.path.stem)
    assert resumed.returncode == 3, resumed.stderr
    stand = fleet.stand()
    assert stand.rollout.phase == RolloutPhase.PAUSED
    assert "the canary edge-1 failed" in stand.rollout.reason
    assert "golden prompts" in fleet.line("edge-1")
    assert fleet.runs() == before  # the canary went back by itself
    for name in ("edge-2", "edge-3"):
        assert stand.state(name) == DeviceState.WAITING
        assert fleet.at.all[name].code("test", "-e", f"{ROOT}/releases/{bad.hex}") != 0
    assert answering(fleet.made, NAMES) == NAMES


def test_a_rollout_that_is_done_is_taken_back_by_one_command(fleet: Fleet) -> None:
    before, bundle = fleet.runs(), fleet.pack()
    pushed = fleet.push(bundle)
    assert pushed.returncode == 0, pushed.stderr
    assert fleet.runs() == [fleet.digest(bundle)] * 3
    fleet.made.edgekit("rollback", "--rollout", "newest", "--yes")
    assert fleet.stand().rollout.phase == RolloutPhase.BACK
    assert fleet.runs() == before
    assert answering(fleet.made, NAMES) == NAMES


def test_a_changed_host_key_and_a_full_disk_are_named_and_the_third_goes_on(fleet: Fleet) -> None:
    """They show before any switch, so nothing is switched here."""
    bundle = fleet.pack()
    one, small = fleet.at.all["edge-1"], fleet.at.all[SMALL]
    with trouble.other_host_key(one), trouble.full_disk(small):
        pushed = fleet.push(bundle, "--stage-only")
        assert pushed.returncode == 3, pushed.stderr
        assert "host key" in fleet.line("edge-1")
        assert "disk" in fleet.line(SMALL)
        stand = fleet.stand()
        assert [stand.state(name) for name in NAMES] == [FAILED, STAGED, FAILED]
        assert fleet.holds(bundle) == [False, True, False]
    fleet.made.edgekit("resume", "--retry-failed")
    assert fleet.holds(bundle) == [True] * 3


def test_without_forwarding_and_over_a_bad_line_the_release_arrives(fleet: Fleet) -> None:
    """One device's sshd forwards nothing; another is 200 ms away and loses 2 % of all packets."""
    bundle = fleet.pack()
    plain, distant = fleet.at.all["edge-1"], fleet.at.all["edge-2"]
    for device in (plain, distant):
        trouble.lose_blob(device)
    with (
        far(distant.address, 22, rtt=0.2) as port,
        trouble.lossy(distant, 2.0),
        trouble.no_forwarding(plain),
    ):
        fleet.at.write_ssh({"edge-2": port})
        try:
            pushed = fleet.push(bundle, "--json")
        finally:
            fleet.at.write_ssh()
    assert pushed.returncode == 0, pushed.stderr
    told = {one["device"]: one for one in json.loads(pushed.stdout)["pushed"]}
    assert "forward" in told["edge-1"]["slower"]
    assert min(told[name]["bytes_sent"] for name in ("edge-1", "edge-2")) > BLOB_BYTES
    assert fleet.runs() == [fleet.digest(bundle)] * 3


def test_one_vanishes_one_loses_power_and_the_third_goes_on(fleet: Fleet) -> None:
    before, bundle = fleet.runs(), fleet.pack()
    gone, dark = fleet.at.all["edge-1"], fleet.at.all["edge-2"]
    trouble.lose_blob(gone)
    push = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", *NAMES, "--bundle", bundle, "--wait"],
        cwd=fleet.made.folder, env=fleet.made.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        trouble.wait_for_transfer(gone)
        gone.unplug()
        begun = ("python3", "-c", BEGUN, f"{ROOT}/state.db", f"sha256:{fleet.digest(bundle)}")
        eventually(lambda: dark.code(*begun) == 0, 300, "the trial runs")
        dark.cut_power()
        _, errors = push.communicate(timeout=900)
        assert push.returncode == 3, errors
        stand = fleet.stand()
        assert stand.state("edge-1") == AWAY
        assert stand.state("edge-2") in (FAILED, AWAY)
        assert stand.state("edge-3") == GOOD
        assert stand.reason("edge-1")
        assert stand.reason("edge-1") in fleet.line("edge-1")
        assert stand.reason("edge-2") in fleet.line("edge-2")
        assert fleet.runs()[0] == before[0]
    finally:
        push.kill()
        push.wait()
        gone.plug()
    resumed = fleet.made.run("resume")  # it asks the device what became of the trial
    assert resumed.returncode == 3, resumed.stderr
    assert fleet.stand().state("edge-1") == GOOD, fleet.line("edge-1")
    assert fleet.stand().state("edge-2") == FAILED
    assert "during the trial" in fleet.line("edge-2")
    fleet.made.edgekit("resume", "--retry-failed")
    assert fleet.runs() == [fleet.digest(bundle)] * 3


def test_a_device_whose_clock_is_wrong_says_so_and_the_others_go_on(fleet: Fleet) -> None:
    bundle = fleet.pack()
    with trouble.wrong_clock(fleet.at.all["edge-1"], "+73y"):
        pushed = fleet.push(bundle, "--stage-only")
        assert pushed.returncode == 3, pushed.stderr
        assert "expired" in fleet.line("edge-1")
    stand = fleet.stand()
    assert [stand.state(name) for name in NAMES] == [FAILED, STAGED, STAGED]
    assert fleet.holds(bundle) == [False, True, True]
    fleet.made.edgekit("resume", "--retry-failed")
    assert fleet.holds(bundle) == [True] * 3


def test_a_controller_that_is_killed_is_resumed_where_its_journal_ends(fleet: Fleet) -> None:
    seen, chance = Kills(), random.Random(SEED)
    waves = [["edge-1"], ["edge-2", "edge-3"]]
    one_rollout(fleet.made, fleet.at, fleet.pack(), 3, seen, chance, waves)
    assert seen.sound, seen
    assert seen.kills > 0
