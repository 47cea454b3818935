"""The project of a fleet, made by the verbs that a person types."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.core.config import BrokerConfig
from tests.conftest import PACK, Project
from tests.fleet.devices import Devices

FLEET_TOML = """\
# The devices of the test fleet. They share few CPUs, so each model gets one thread.
"""
DEVICE = """
[devices.{name}]
address = "ssh:{account}@{name}"
threads = 1
trial_seconds = {trial}
"""
TRIAL_SECONDS = 900  # ten models may load at once on two CPUs that others use, too
CONTEXT_TOKENS = "512"
PYTHON = "3.11"  # of the devices' Debian


@dataclass
class FleetProject(Project):
    """A project with the fleet's devices."""

    @property
    def broker(self) -> BrokerConfig:
        """The broker, at this host's end of the fleet's network."""
        host, _, port = self.environment["EDGEKIT_BROKER"].rpartition(":")
        return BrokerConfig(host, int(port))

    def pack(self, name: str, model: Path, *more: str) -> str:
        """Pack a model; the name of the bundle."""
        self.edgekit(
            "pack", str(model), "--name", name, "--context", CONTEXT_TOKENS, *PACK, *more
        )  # fmt: skip
        return f"{name}:1"


def project(
    fleet: Devices,
    folder: Path,
    model: Path | None,
    report: Callable[[str], None] = lambda _: None,
) -> FleetProject:
    """`init`, `pack` of the model, and `fleet.toml` with every device; none is enrolled yet.

    Args:
        fleet: the running devices.
        folder: where the project is made.
        model: a model folder; None packs nothing.
        report: told what is done.
    """
    environment = {
        "EDGEKIT_BROKER": f"{fleet.host_address}:{fleet.port}",
        # of the home only the ssh configuration is another
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "HOME": str(fleet.home),
        "SSH_AUTH_SOCK": "",
    }
    made = FleetProject(folder, fleet.port, environment)
    folder.mkdir(parents=True)
    report("edgekit init")
    made.edgekit("init", ".", "--port", str(fleet.port))
    config = folder / "edgekit.toml"  # whoever types a command there needs no environment for it
    text = config.read_text("utf-8").replace("127.0.0.1", fleet.host_address)
    config.write_text(text, "utf-8")
    told = [DEVICE.format(name=name, account="root", trial=TRIAL_SECONDS) for name in fleet.all]
    (folder / "fleet.toml").write_text(FLEET_TOML + "".join(told), "utf-8")
    if model is not None:
        report("edgekit pack")
        made.pack("smollm2", model, *(f"--runtime={one}:{PYTHON}" for one in fleet.platforms))
    return made


def enroll(made: FleetProject, fleet: Devices) -> None:
    """`edgekit enroll` of all devices."""
    made.edgekit("enroll", *fleet.all)
