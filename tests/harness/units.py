"""The system install of `deploy/` on a test device, and a project that pushes to its door."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import data
from edgekit.agent.release.door.probe import probe
from edgekit.bundle.layers import bootstrap
from edgekit.bundle.layout import Layout
from edgekit.client import Final, Requester
from edgekit.core import layout
from edgekit.core.config import BrokerConfig
from edgekit.core.manifest import oci_platform
from tests import tools
from tests.conftest import Project
from tests.harness.systemd_device import SystemdDevice
from tests.tools import eventually

ROOT = "/var/lib/edgekit"
PUSHER = "edgekit-push"
DOOR = "/usr/local/lib/edgekit/edgekit-door"
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
        self.project.edgekit("pack", str(model), "--name", name, "--context", "1024")
        pinned = Layout(self.project.folder / ".edgekit" / "store").resolve(f"{name}")
        return pinned.digest.hex


def install(device: SystemdDevice) -> None:
    """What an enrollment does, without the agent: accounts, folders, units and the door."""
    device.exec(
        "useradd", "--system", "--home-dir", ROOT, "--shell", "/usr/sbin/nologin", "edgekit"
    )
    device.exec("useradd", "--system", "--create-home", "--home-dir", f"/var/lib/{PUSHER}",
                "--shell", "/bin/sh", PUSHER)  # fmt: skip
    device.exec("usermod", "--password", "*", PUSHER)
    public = device.identity.with_suffix(".pub").read_text()
    keys = f'restrict,command="{DOOR}" {public}'.encode()
    device.write(f"/var/lib/{PUSHER}/.ssh/authorized_keys", keys)
    for file in data.path("deploy/systemd").glob("edgekit-*"):
        device.write(f"/etc/systemd/system/{file.name}", file.read_bytes())
    device.write(DOOR, data.path("deploy/door/edgekit-door").read_bytes(), "755")
    for folder in ("", "/etc", "/run", "/log"):
        device.exec("install", "-d", "-o", "edgekit", "-g", "edgekit", "-m", "700", ROOT + folder)
    device.write(f"{ROOT}/{layout.SUPERVISOR_FILE}", b"systemd\n")
    device.exec("systemctl", "daemon-reload")
    device.exec("systemctl", "--quiet", "enable", "edgekit-agent.service")
    device.exec("systemctl", "--quiet", "enable", "--now", "edgekit-updater.socket",
                "edgekit-agent.path")  # fmt: skip


def give_agent(device: SystemdDevice, project: Project) -> None:
    """Put the agent of the project's newest bundle there, as root: the door takes no first one."""
    store = Layout(project.folder / ".edgekit" / "store")
    manifest = store.resolve(None).manifest
    facts = probe("/")
    runtime = manifest.runtime_for(oci_platform(str(facts["machine"])), "3.11")
    name, tar = bootstrap(store, manifest, runtime)
    folder = f"{ROOT}/bootstrap-{name}"
    device.exec("mkdir", "-p", folder)
    device.exec("tar", "-x", "-C", folder, stdin=tar)
    device.exec("ln", "-sfn", f"bootstrap-{name}", f"{ROOT}/{layout.BOOTSTRAP}")
    device.exec("chown", "-Rh", "edgekit:edgekit", ROOT)


@contextmanager
def installed(
    device: SystemdDevice, project: Project, folder: Path, trial_seconds: int = 60
) -> Iterator[Installed]:
    """The device with its units, a broker that both sides reach, and a project with it as `box`."""
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
            f'[devices.box]\naddress = "ssh:{PUSHER}@{device.name}"\n'
            f"threads = 2\ntrial_seconds = {trial_seconds}\n"
        )
        install(device)
        give_agent(device, project)
        yield Installed(device, project, BrokerConfig(device.host_address, port))
    shutil.rmtree(home)
