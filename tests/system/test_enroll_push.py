"""An enrolled device from the first push to an answer after a power cut, over mutual TLS."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tools
from tests.conftest import Project, make_project
from tests.harness.systemd_device import SystemdDevice, systemd_device
from tests.pki import Authority

pytestmark = pytest.mark.timeout(600)


@contextmanager
def broker(folder: Path, ca: Authority, host: str) -> Iterator[int]:
    """A Mosquitto that lets in those whose certificate the CA signed, and nobody else."""
    shown, port = ca.issue("broker", hosts=(host,)), tools.free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} {host}\nuser root\nallow_anonymous true\nrequire_certificate true\n"
        f"use_identity_as_username true\ncafile {ca.cert}\ncertfile {shown.cert}\n"
        f"keyfile {shown.key}\nlog_dest file {folder / 'mosquitto.log'}\nlog_type all\n"
    )
    process = subprocess.Popen([tools.find("mosquitto"), "-c", str(config)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SystemdDevice]:
    with systemd_device(tmp_path / "device", memory="2g") as device:
        yield device


def project_for(
    device: SystemdDevice, folder: Path, ca: Authority, port: int, model: Path
) -> Project:
    home = folder / "home"
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    (home / ".ssh" / "config").write_text(device.ssh_config())
    project = make_project(folder / "project", port, model)
    project.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": ""}
    project.environment["EDGEKIT_BROKER"] = f"{device.host_address}:{port}"
    ours = ca.issue("alice")
    (project.folder / "edgekit.toml").write_text(
        f'requester = "alice"\n[broker]\nhost = "{device.host_address}"\nport = {port}\n'
        f'tls = true\nca_file = "{ca.cert}"\ncert_file = "{ours.cert}"\nkey_file = "{ours.key}"\n'
    )
    (project.folder / "fleet.toml").write_text(
        f'[devices.admin]\naddress = "ssh:admin@{device.name}"\nthreads = 2\n'
    )
    return project


def test_an_enrolled_device_answers_before_and_after_a_power_cut(
    device: SystemdDevice, tmp_path: Path, smollm2: Path
) -> None:
    """Its key was made there; its push account owns nothing; nobody starts it after the cut."""
    (tmp_path / "ca").mkdir()
    ca = Authority(tmp_path / "ca")
    (tmp_path / "ca.key").write_bytes(ca.key_pem())
    with broker(tmp_path, ca, device.host_address) as port:
        project = project_for(device, tmp_path, ca, port, smollm2)
        wanted = ("--ca", str(ca.cert), "--ca-key", str(tmp_path / "ca.key"))
        project.edgekit("enroll", "admin", *wanted)
        pushed = json.loads(project.edgekit("push", "admin", "--json"))
        assert pushed["not_enrolled"] == []
        assert "Paris" in project.edgekit("ask", "admin", "What is the capital of France?")
        assert "as 'admin'" in (tmp_path / "mosquitto.log").read_text().replace(
            "u'admin'", "as 'admin'"
        )
        state = json.loads(project.edgekit("state", "admin", "--json"))
        assert (state["supervisor"], state["enrolled"]) == ("systemd-system", True)
        assert "starts     by systemd (system unit), also" in project.edgekit("state", "admin")
        again = json.loads(project.edgekit("enroll", "admin", *wanted, "--json"))["enrolled"][0]
        assert again["changed"] == []
        assert (again["ready"], again["watchdog"]) == ("active", True)
        device.cut_power()
        assert "Paris" in project.edgekit("ask", "admin", "What is the capital of France?")
        project.edgekit("remove", "admin")
        assert device.code("test", "-e", "/var/lib/edgekit") == 1
        assert device.code("pgrep", "-u", "edgekit") != 0
