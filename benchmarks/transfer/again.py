"""`push.ten_again_seconds`: a push of what ten devices have already."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figure import figure
from benchmarks.rig import COMMAND_SECONDS, Rig, run_edgekit
from benchmarks.transfer.devices import devices
from edgekit.errors import EdgekitError

NAMES = tuple(f"ten-{number}" for number in range(10))


@contextmanager
def _ten(rig: Rig) -> Iterator[dict[str, str]]:
    """Ten devices in the rig's project, each with its agent; the environment that reaches them."""
    assert rig.device
    rig.stop_device()
    project = rig.folder / "project"
    fleet = project / "fleet.toml"
    text = fleet.read_text("utf-8")
    with devices() as to:
        homes = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config"}
        kept = {name: str(Path.home() / rest) for name, rest in homes.items()}
        environment = kept | dict(os.environ) | {"HOME": str(to.home)}
        environment.pop("SSH_AUTH_SOCK", None)
        table = '\n[devices.{0}]\naddress = "ssh:device"\nroot = "{1}/{0}"\nthreads = 1\n'
        more = "".join(table.format(name, rig.folder) for name in NAMES)
        fleet.write_text(text + more, encoding="utf-8")
        try:
            run_edgekit(("push", *NAMES), project, environment, COMMAND_SECONDS)
            _wait_for_baselines(rig)
            yield environment
        finally:
            for name in NAMES:
                run_edgekit(("stop", name), project, environment, COMMAND_SECONDS)
            fleet.write_text(text, encoding="utf-8")


def _wait_for_baselines(rig: Rig) -> None:
    """Wait until each agent has answered its golden prompts for the quality canary, once."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while not all(any((rig.folder / name).glob("releases/*/baseline.json")) for name in NAMES):
        if time.monotonic() > deadline:
            raise EdgekitError("a device made no baseline")
        time.sleep(1)


@figure(
    "push.ten_again_seconds",
    what="A second push of the same bundle to ten devices, the whole command",
    unit="s",
    against="ten agents of this machine behind one sshd of it: they share its CPUs with the push",
)
def ten_again_seconds(rig: Rig) -> list[float]:
    """Seconds of wall time of the command as typed, Python's own start included."""
    with _ten(rig) as environment:

        def again() -> float:
            began = time.perf_counter()
            words = ("push", *NAMES, "--parallel", "10", "--json")
            told = run_edgekit(words, rig.folder / "project", environment, COMMAND_SECONDS)
            seconds = time.perf_counter() - began
            if any(one["changed"] or one["bytes_sent"] for one in json.loads(told)["pushed"]):
                raise EdgekitError("the second push changed a device")
            return seconds

        return [again() for _ in range(rig.rounds)]
