"""Accounts on a real systemd device become devices that come back, and accounts again."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import enroll_cuts
from tests.conftest import Project, make_project
from tests.enroll_cuts import everything, unlike
from tests.harness.systemd_device import SystemdDevice, systemd_device
from tests.pki import Authority

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdDevice]:
    with systemd_device(tmp_path_factory.mktemp("device")) as device:
        yield device


@pytest.fixture
def project(device: SystemdDevice, tmp_path: Path) -> Project:
    """A project whose fleet.toml has each account of the device; it trusts no host key yet."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    config = device.ssh_config().replace(str(device.known_hosts), str(home / "known"))
    (home / ".ssh" / "config").write_text(config)
    project = make_project(tmp_path / "project", 1, None)
    project.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": ""}
    tables = [
        f'[devices.{user}]\naddress = "ssh:{user}@{device.name}"  # as {user}\n'
        for user in ("root", "admin", "pi")
    ]
    (project.folder / "fleet.toml").write_text("\n".join(tables))
    return project


def told(project: Project, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON of one device."""
    answer = json.loads(project.edgekit(*arguments, "--json"))
    (one,) = answer["enrolled" if "enrolled" in answer else "removed"]
    return dict(one)


def host_key(device: SystemdDevice) -> str:
    """The fingerprint as the device's owner reads it there."""
    key = "/etc/ssh/ssh_host_ed25519_key.pub"
    return device.exec("ssh-keygen", "-lf", key).split()[1]


def test_an_unknown_host_key_is_pinned_only_as_asked(
    device: SystemdDevice, project: Project
) -> None:
    known = Path(project.environment["HOME"]) / "known"
    refused = project.run("enroll", "pi")
    assert refused.returncode == 4
    assert host_key(device) in refused.stderr
    other = project.run("enroll", "pi", "--host-key", "SHA256:AAAA", "--accept-new-host-key")
    assert other.returncode == 4
    assert not known.exists()
    shown = told(project, "enroll", "pi", "--dry-run", "--host-key", host_key(device))
    assert shown["host_key"] == host_key(device)
    assert not known.exists(), "a dry run pins nothing"
    told(project, "enroll", "pi", "--host-key", host_key(device))
    public = device.exec("cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
    assert known.read_text().split()[-2:] == public[:2]
    told(project, "remove", "pi")
    assert not known.exists()


def test_an_account_with_sudo_becomes_a_device_and_an_account_again(
    device: SystemdDevice, project: Project, tmp_path: Path
) -> None:
    ca = Authority(tmp_path)
    ca_key = tmp_path / "ca.key"
    ca_key.write_bytes(ca.key_pem())
    before, fleet = everything(device), (project.folder / "fleet.toml").read_text()
    told(project, "enroll", "admin", "--dry-run", "--accept-new-host-key")
    assert unlike(before, everything(device)) == [], "a dry run changes nothing"
    wanted = ("--ca", str(ca.cert), "--ca-key", str(ca_key), "--hardware", "pi5")
    first = told(project, "enroll", "admin", "--accept-new-host-key", *wanted)
    assert (first["starts"], first["system"]) == ("systemd-system", True)
    units = ["edgekit-agent.service", "edgekit-agent.path", "edgekit-updater.socket"]
    assert device.exec("systemctl", "is-enabled", *units).split() == ["enabled"] * 3
    assert device.exec("systemctl", "is-active", *units[1:]).split() == ["active"] * 2
    root_of_trust = "/var/lib/edgekit/etc/trust/root.json"
    paths = ("/var/lib/edgekit", "/etc/edgekit/push", root_of_trust)
    owner = device.exec("stat", "-c", "%U %a", *paths).split("\n")
    assert owner[:3] == ["edgekit 700", "root 755", "edgekit 600"]
    ours = project.folder / "trust" / "1.root.json"
    assert device.exec("cat", root_of_trust) == ours.read_text()
    subject = "openssl x509 -noout -subject -in /var/lib/edgekit/etc/broker/client.crt"
    assert device.exec("sh", "-c", subject).strip() == "subject=CN = admin"
    assert "edgekit-push" in (project.folder / "fleet.toml").read_text()
    enrolled = everything(device)
    again = told(project, "enroll", "admin", *wanted)
    assert again["changed"] == []
    assert unlike(enrolled, everything(device)) == []
    stolen = device.ssh("id; cat /var/lib/edgekit/etc/agent.toml", user="edgekit-push")
    assert stolen.returncode != 0
    assert b"uid=" not in stolen.stdout
    told(project, "remove", "admin")
    assert unlike(before, everything(device)) == []
    assert (project.folder / "fleet.toml").read_text() == fleet
    assert not list((project.folder / ".edgekit").glob("enrolled*"))


@pytest.mark.parametrize("way", ["cron", "systemd-user", "administrator"])
def test_an_account_without_root_comes_back_by_the_best_way_that_works(
    way: str, device: SystemdDevice, project: Project
) -> None:
    """Without polkitd linger is refused; with it, or set by an administrator, it is there."""
    if way == "administrator":
        device.exec("loginctl", "enable-linger", "pi")
    elif way == "systemd-user":
        device.exec("systemctl", "unmask", "polkit")
        device.exec("systemctl", "start", "polkit")
    device.exec("sh", "-c", "echo '5 5 * * * true  # mine' | crontab -u pi -")
    before = everything(device)
    try:
        enrolled = told(project, "enroll", "pi", "--accept-new-host-key")
        assert enrolled["starts"] == ("cron" if way == "cron" else "systemd-user")
        assert (enrolled["notes"] != []) is (way == "cron")
        crontab = device.exec("crontab", "-u", "pi", "-l")
        assert "# mine" in crontab
        assert ("@reboot" in crontab) is (way == "cron")
        if way != "cron":
            asked = device.ssh("systemctl --user is-enabled edgekit-agent.service", user="pi")
            assert asked.stdout.strip() == b"enabled"
        assert told(project, "enroll", "pi")["changed"] == []
        told(project, "remove", "pi")
        assert unlike(before, everything(device)) == []
        lingers = device.code("test", "-e", "/var/lib/systemd/linger/pi") == 0
        assert lingers is (way == "administrator"), "what was set before stays"
    finally:
        device.exec("sh", "-c", "crontab -u pi -r; loginctl disable-linger pi; true")
        device.exec("systemctl", "stop", "polkit")
        device.exec("systemctl", "mask", "polkit")


def typed(project: Project, password: str, *arguments: str) -> tuple[int, str]:
    """Run `edgekit` on a terminal where a person types a password: exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.folder)
        os.execve(sys.executable, [sys.executable, "-m", "edgekit", *arguments], project.env)
    shown, asked = b"", b"sudo password on pi: "
    with suppress(OSError):  # the terminal ends with the process
        while data := os.read(terminal, 4096):
            shown += data
            if asked in shown and password:
                time.sleep(0.1)  # getpass discards what was typed before it asks
                os.write(terminal, f"{password}\n".encode())
                password = ""
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


def test_a_password_of_sudo_is_asked_for_on_the_terminal(
    device: SystemdDevice, project: Project
) -> None:
    device.exec("sh", "-c", "echo pi:hunter2 | chpasswd")
    device.write("/etc/sudoers.d/pi", b"pi ALL=(ALL) ALL\n", "440")
    before = everything(device)
    try:
        wanted = ("enroll", "pi", "--system", "--ask-sudo", "--accept-new-host-key")
        refused = project.run(*wanted)
        assert refused.returncode == 2, "nobody can type it here"
        code, shown = typed(project, "wrong", *wanted)
        assert code == 1, shown
        assert unlike(before, everything(device)) == []
        code, shown = typed(project, "hunter2", *wanted)
        assert code == 0, shown
        assert "hunter2" not in shown
        asked = device.exec("systemctl", "is-enabled", "edgekit-updater.socket")
        assert asked.strip() == "enabled"
        code, shown = typed(project, "hunter2", "remove", "pi", "--ask-sudo")
        assert code == 0, shown
        assert unlike(before, everything(device)) == []
        log = device.exec("sh", "-c", "journalctl --no-pager; cat /var/log/auth.log; true")
        assert "hunter2" not in log
    finally:
        device.exec("sh", "-c", "rm -f /etc/sudoers.d/pi; usermod --password '*' pi")


def test_without_cron_and_linger_it_says_that_it_will_not_come_back(
    device: SystemdDevice, project: Project
) -> None:
    device.exec("sh", "-c", "echo pi > /etc/cron.deny")
    try:
        done = project.run("enroll", "pi", "--accept-new-host-key")
        assert done.returncode == 0
        said = " ".join(done.stderr.split())
        assert "pi will not come back after a reboot: no user unit: linger is refused" in said
        assert "no cron: " in said
        assert "`loginctl enable-linger pi`" in said
        project.edgekit("remove", "pi")
        refused = project.run("enroll", "pi", "--system", "--accept-new-host-key")
        assert refused.returncode == 2
        assert "pi is not root, and sudo says" in refused.stderr
    finally:
        device.exec("rm", "/etc/cron.deny")


@pytest.mark.parametrize(("user", "first"), [("admin", 1), ("pi", 3)])
def test_an_enrolment_that_is_cut_is_removed_or_gone_on_with(
    user: str, first: int, device: SystemdDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After every fourth step: removal leaves nothing; after some: enrolling again ends as a whole
    one. `python -m tests.show enroll-cuts` cuts after each step.
    """
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(device.ssh_config())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    tried, wrong = enroll_cuts.cuts(device, user, slice(first, None, 4))
    assert (tried > 3, wrong) == (True, [])


def test_a_device_that_is_off_is_not_removed_and_it_is_said_what_is_left(
    device: SystemdDevice, project: Project
) -> None:
    told(project, "enroll", "pi", "--accept-new-host-key")
    config = Path(project.environment["HOME"]) / ".ssh" / "config"
    text = config.read_text()
    config.write_text(f"{text}  Port 1\n")
    off = project.run("remove", "pi")
    assert off.returncode == 1
    assert "nothing was removed: /home/pi/.local/share/edgekit (cron) is still there" in off.stderr
    config.write_text(text)
    told(project, "remove", "pi")


def test_a_project_without_a_root_of_trust_enrolls_nothing(
    device: SystemdDevice, project: Project
) -> None:
    shutil.rmtree(project.folder / "trust")
    refused = project.run("enroll", "pi", "--accept-new-host-key")
    assert refused.returncode == 2
    assert "this project has no root of trust" in refused.stderr
    assert not (Path(project.environment["HOME"]) / "known").exists(), "nothing is pinned"
    project.edgekit("init", ".")
    told(project, "enroll", "pi", "--accept-new-host-key", "--dry-run")


def test_a_folder_of_this_machine_is_not_enrolled(project: Project) -> None:
    fleet = project.folder / "fleet.toml"
    fleet.write_text('[devices.demo]\naddress = "local:.edgekit/devices/demo"\n')
    for verb in ("enroll", "remove"):
        refused = project.run(verb, "demo")
        assert refused.returncode == 2
        assert "demo is a folder of this machine" in refused.stderr
