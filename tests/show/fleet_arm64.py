"""An amd64 device and an emulated arm64 one: enrolled, pushed one bundle in one rollout, asked.

Model, agent and golden prompts are the same for both; only the runtime layer differs. Then a
release with damaged weights goes to the arm64 device, which has to take the good one back by
itself. The model is a tiny one with random weights: SmolLM2 makes 1 token in 6 s under emulation.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.bundle.layout import Layout
from edgekit.core import layout
from edgekit.core.golden import MAX_SCORED
from edgekit.core.manifest import PLATFORM, Manifest
from tests.faults.bad_release import make_bad, with_weights
from tests.fleet.asking import answering, currents
from tests.fleet.devices import Devices, devices
from tests.fleet.project import PYTHON, FleetProject, enroll, project
from tests.harness.systemd_device import SystemdDevice
from tests.harness.units import ROOT
from tests.matrix.tiny import family_model
from tests.show import Figures
from tests.show.fleet_ten import controlled

FAMILY = "LlamaForCausalLM"
ARM64 = "edge-2"
PLATFORMS = {"edge-1": "linux/amd64", ARM64: "linux/arm64"}
SCORE = re.compile(
    r"positions=(\d+), counted=(\d+), agreement=([\d.]+), nll_change=([-\d.e]+), "
    r"tokens_per_second=([\d.]+)"
)


@dataclass
class Mixed:
    """A fleet of two architectures with one bundle for both, and what was counted of it."""

    at: Devices
    made: FleetProject
    work: Path
    figures: Figures = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def check(self, what: str, good: bool) -> None:
        """Note what is not as it must be."""
        if not good:
            self.wrong.append(what)

    @property
    def manifest(self) -> Manifest:
        """Of the good bundle."""
        return Layout(self.made.store).resolve("tiny:1").manifest

    def enroll(self) -> None:
        """Both are enrolled, and their hardware is known for what it is."""
        began = time.monotonic()
        enroll(self.made, self.at)
        self.figures["enroll_seconds"] = round(time.monotonic() - began, 1)
        told = controlled(self.made, "fleet", "check").told["devices"]
        classes = {one["device"]: str(one.get("hardware_class", one.get("error"))) for one in told}
        self.figures["classes"] = "+".join(classes.values()).replace(" ", ",")
        for name, platform in PLATFORMS.items():
            self.check(f"{name} is no {platform}", classes[name].startswith(f"{platform} "))

    def push(self) -> None:
        """One rollout to both: each takes its own runtime, proves the model, and answers."""
        done = controlled(self.made, "push", "--bundle", "tiny:1", "--wait")
        self.check(f"the push: {done.errors[-2000:]}", done.code == 0)
        self.figures["push_seconds"] = round(done.seconds, 1)
        sent = {one["device"]: one["bytes_sent"] for one in done.told.get("pushed", [])}
        for name, platform in PLATFORMS.items():
            kind, device = platform.partition("/")[2], self.at.all[name]
            layers = runtimes(device, self.manifest)
            self.figures[f"{kind}_bytes"] = sent.get(name, 0)
            self.figures[f"{kind}_runtimes"] = "+".join(layers)
            self.check(f"{name} has the runtimes {layers}", layers == [platform])
            positions, agreement, nats, speed = score(device)
            self.figures[f"{kind}_scored"] = positions
            self.figures[f"{kind}_agreement"] = agreement
            self.figures[f"{kind}_nats"] = round(nats, 4)
            self.figures[f"{kind}_tokens_per_second"] = round(speed, 1)
            self.check(f"{name} scored {positions} positions", positions == MAX_SCORED)
        answers = answering(self.made, list(PLATFORMS), word="")
        self.figures["answering"] = len(answers)
        self.check(f"only {answers} answer", answers == list(PLATFORMS))

    def damage(self) -> None:
        """A release of whose weights half is nothing: the arm64 device takes the good one back."""
        before = currents(self.at)
        store = Layout(self.made.store)
        make_bad(store, "tiny:1", "bad:1", with_weights(halved, self.work / "bad"))
        self.made.edgekit("sign", "bad:1")
        done = controlled(self.made, "push", ARM64, "--bundle", "bad:1", "--wait")
        self.figures["damaged_seconds"] = round(done.seconds, 1)
        self.figures["damaged_nats"] = round(score(self.at.all[ARM64])[2], 3)
        refused = done.code != 0 and "golden prompts" in done.errors
        answers = answering(self.made, [ARM64], word="") == [ARM64]
        back = refused and currents(self.at) == before and answers
        self.figures["damaged_taken_back"] = int(back)
        self.check(f"the damaged release: {done.code} {done.errors[-2000:]}", back)


def count() -> tuple[Figures, bool]:
    """The figures, and whether all of them are as they must be."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekit-fleet-") as name:
        model = family_model(Path(name), FAMILY, recipe="plain")
        folder, made = Path(name) / "fleet", time.monotonic()
        with devices(folder, 2, arm64=1) as fleet:
            up = time.monotonic() - made
            mixed = Mixed(fleet, project(fleet, folder / "project", None), folder)
            both = [f"--runtime={platform}:{PYTHON}" for platform in fleet.platforms]
            mixed.made.pack("tiny", model, "--accept-ungated", *both)
            mixed.enroll()
            mixed.push()
            mixed.damage()
    figures: Figures = {"devices": 2, "emulated": 1, "up_seconds": round(up, 1)} | mixed.figures
    figures["load"] = round(os.getloadavg()[1], 1)
    figures["seconds"] = round(time.monotonic() - began)
    if mixed.wrong:
        figures["wrong"] = repr(mixed.wrong)
    return figures, not mixed.wrong


def halved(folder: Path) -> None:
    """Make half of a model's weights nothing."""
    file = folder / "model.onnx.data"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)


def runtimes(device: SystemdDevice, manifest: Manifest) -> list[str]:
    """The platforms whose runtime layer a device has, packed or unpacked."""
    there = device.exec("ls", f"{ROOT}/blobs/sha256", f"{ROOT}/trees")
    return [layer.annotations[PLATFORM] for layer in manifest.runtimes if layer.digest.hex in there]


def score(device: SystemdDevice) -> tuple[int, float, float, float]:
    """What the newest trial scored: positions, agreement, change in nats, tokens/s."""
    found = SCORE.findall(device.exec("cat", f"{ROOT}/{layout.LOG_FILE}"))
    if not found:
        return 0, 0.0, 0.0, 0.0
    positions, _, agreement, nats, speed = found[-1]
    return int(positions), float(agreement), float(nats), float(speed)
