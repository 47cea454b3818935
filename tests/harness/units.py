"""A test device that `edgekit enroll` made a system install, and the project that pushes to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle.layout import Layout
from edgekit.client import Final, Requester
from edgekit.core import layout
from edgekit.core.config import BrokerConfig
from edgekit.fleet.enroll.values import PUSH_ACCOUNT, SYSTEM_ROOT
from tests import tools
from tests.conftest import PACK, Project
from tests.harness.systemd_device import SystemdDevice
from tests.tools import eventually

ROOT, PUSHER = str(SYSTEM_ROOT), PUSH_ACCOUNT
QUESTION = "What is the capital of France?"
ANSWER_SECONDS = 90.0


@dataclass
class Installed:
    """A device with the units, and the project that it belongs to."""

    device: SystemdDevice
    project: Project
    broker: BrokerConfig

    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.project.edgekit("state", "box", "--json"))
        return told

    def answer(self) -> str:
        """Ask the device over MQTT."""
        with Requester(self.broker, "tester") as requester:
            body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8}
            last = list(requester.ask("box", body))[-1]
        assert isinstance(last, Final), last
        return last.text

    def current(self) -> str:
        """The release that `current` names, read without the agent."""
        line = f"readlink {ROOT}/current || true"
        return self.device.exec("sh", "-c", line).strip().rpartition("/")[2]

    def answers(self, release: str) -> None:
        """Wait until this release is current, good and ready, and an answer comes."""
        eventually(
            lambda: self.current() == release and self.ready(), ANSWER_SECONDS, "it answers again"
        )
        assert "Paris" in self.answer()
        rows = {row["digest"]: row["state"] for row in self.state()["releases"]}
        assert rows[f"sha256:{release}"] == "good"

    def ready(self) -> bool:
        """Whether systemd has heard READY of the running agent, and it is ready still."""
        return (
            self.show("ActiveState") == "active"
            and self.device.code("test", "-e", f"{ROOT}/{layout.READY_FILE}") == 0
        )

    def show(self, name: str, unit: str = "edgekit-agent.service") -> str:
        """A property of a unit."""
        told = self.device.exec("systemctl", "show", "--value", f"--property={name}", unit)
        return told.strip()

    def agent(self) -> int:
        """The process of the agent, a child of the unit's main process."""
        line = f"pgrep -P {self.show('MainPID')} -f edgekit.agent"
        return int(self.device.exec("sh", "-c", line).split()[0])

    def pack(self, name: str, model: Path) -> str:
        """Pack the model under another name; the new release's digest."""
        self.project.edgekit("pack", str(model), "--name", name, "--context", "1024", *PACK)
        pinned = Layout(self.project.folder / ".edgekit" / "store").resolve(f"{name}")
        return pinned.digest.hex


@contextmanager
def installed(
    device: SystemdDevice, project: Project, folder: Path, trial_seconds: int = 60
) -> Iterator[Installed]:
    """The device as `box` of the project, enrolled, and a broker that both sides reach."""
    port = tools.free_port()
    listener = f"listener {port} {device.host_address}\n"
    with tools.mosquitto(folder, more_config=listener) as broker:
        assert broker.process is not None
        home = folder / "home"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".ssh" / "config").write_text(device.ssh_config())
        project.environment |= {
            "EDGEKIT_BROKER": f"{device.host_address}:{port}",
            "HOME": str(home),
            "SSH_AUTH_SOCK": "",
        }
        (project.folder / "fleet.toml").write_text(
            f'[devices.box]\naddress = "ssh:root@{device.name}"\n'
            f"threads = 2\ntrial_seconds = {trial_seconds}\n"
        )
        project.edgekit("enroll", "box")
        yield Installed(device, project, BrokerConfig(device.host_address, port))
    shutil.rmtree(home)
