"""Ten real devices: enrolled, planned for, pushed to in waves by that plan, and asked over MQTT.

Each is a container with systemd, sshd and an address of its own; the agent, the model and the
Mosquitto are real. The controller is the command that a person types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.asking import answering, currents
from tests.fleet.devices import devices
from tests.fleet.project import FleetProject, enroll, project
from tests.show import Figures
from tests.show.planted import built_smollm2

DEVICES = 10
PUSH_SECONDS = 3000.0
MOST_MB = 200  # of the controller


@dataclass(frozen=True)
class Command:
    """How a command of the controller ended."""

    code: int
    told: dict[str, Any]
    errors: str
    seconds: float
    rss_mb: int
    cpu_seconds: float


def controlled(made: FleetProject, *arguments: str) -> Command:
    """Run a command with `--json`, and measure it; it may end as it likes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *arguments, "--json"],
            cwd=made.folder, env=made.env, stdout=out, stderr=errors,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0)
        errors.seek(0)
        said = out.read()
        return Command(
            process.returncode,
            json.loads(said) if said.strip() else {},
            errors.read().decode(),
            seconds,
            used.ru_maxrss // 1024,
            used.ru_utime + used.ru_stime,
        )


def count() -> tuple[Figures, bool]:
    """The figures, and whether all devices have the release and answer."""
    return counted(DEVICES)


def counted(number: int) -> tuple[Figures, bool]:
    """The figures of a fleet of that size."""
    started = time.monotonic()
    model = built_smollm2()
    with tempfile.TemporaryDirectory(prefix="edgekit-fleet-") as name:
        folder = Path(name) / "fleet"
        began = time.monotonic()
        with devices(folder, number) as fleet:
            up = time.monotonic() - began
            made = project(fleet, folder / "project", model)
            began = time.monotonic()
            enroll(made, fleet)
            enrolled = time.monotonic() - began
            plan = controlled(made, "push", "--plan", "--save", "tonight.json")
            first = controlled(made, "push", "--from", "tonight.json")
            again = controlled(made, "push")
            right = answering(made, list(fleet.all))
            running = set(currents(fleet).values())
    pushed = first.told.get("pushed", [])
    figures: Figures = {
        "devices": number,
        "up_seconds": round(up, 1),
        "enroll_seconds": round(enrolled, 1),
        "plan_seconds": round(plan.seconds, 1),
        "waves": "+".join(str(len(wave)) for wave in plan.told.get("waves", [])),
        "push_seconds": round(first.seconds, 1),
        "pushed": len(pushed),
        "bytes": sum(one["bytes_sent"] for one in pushed),
        "controller_rss_mb": first.rss_mb,
        "controller_cpu_seconds": round(first.cpu_seconds, 1),
        "again_seconds": round(again.seconds, 1),
        "again_bytes": sum(one["bytes_sent"] for one in again.told.get("pushed", [])),
        "releases": len(running),
        "answering": len(right),
        "load": round(os.getloadavg()[1], 1),
        "seconds": round(time.monotonic() - started),
    }
    if plan.code or first.code or again.code:
        figures["errors"] = repr((plan.errors + first.errors + again.errors)[-2000:])
    sound = (
        (plan.code, first.code, again.code) == (0, 0, 0)
        and len(pushed) == len(right) == number
        and len(running) == 1
        and first.rss_mb <= MOST_MB
    )
    return figures, sound
