"""`edgekit logs`: a folder, an account over SSH and a door say the same; a terminal stays whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgekit.agent.release import log
from edgekit.core import layout
from edgekit.errors import EdgekitError, VerificationError
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.inventory import Device
from edgekit.fleet.link.local import LocalRemote
from edgekit.fleet.link.remote import SshRemote
from edgekit.fleet.logs import READ_LOG, read_log
from tests import tools
from tests.conftest import Project, make_project
from tests.harness.door import Place, device_with_door
from tests.harness.systemd_device import SystemdDevice

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with device_with_door(tmp_path_factory.mktemp("door"), tmp_path_factory.mktemp("a")) as place:
        yield place


@contextmanager
def reached(kind: str, place: Place, folder: Path) -> Iterator[tuple[DeviceDriver, Path]]:
    """A driver of a device, and the file of its log."""
    if kind == "door":
        with place.driver() as driver:
            yield driver, place.box.root.log_file
        return
    root = folder / "root"
    (root / layout.LOG).mkdir(parents=True)
    device = Device("local:x")
    if kind == "folder":
        with closing(DeviceDriver("box", device, LocalRemote(), str(root))) as driver:
            yield driver, root / layout.LOG_FILE
        return
    (folder / "sshd").mkdir()
    with tools.sshd(folder / "sshd") as server, pytest.MonkeyPatch.context() as patch:
        (folder / ".ssh").mkdir(mode=0o700)
        (folder / ".ssh" / "config").write_text(
            f"Host box\n HostName 127.0.0.1\n Port {server.port}\n IdentityFile {server.identity}\n"
            f" UserKnownHostsFile {server.known_hosts}\n"
        )
        patch.setenv("HOME", str(folder))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        with closing(SshRemote("box")) as remote:
            yield DeviceDriver("box", Device("ssh:box"), remote, str(root)), root / layout.LOG_FILE


@pytest.mark.parametrize("kind", ["folder", "account", "door"])
def test_the_end_and_what_comes(kind: str, place: Place, tmp_path: Path) -> None:
    with reached(kind, place, tmp_path) as (driver, path):
        before = path.read_text() if path.exists() else ""
        with path.open("a") as file:
            file.write("first\nsecond\n")
        part = read_log(driver, lines=2)
        assert (part.lines, part.lost) == (["first", "second"], False)
        timer = threading.Timer(0.5, lambda: path.open("a").write("third \x1b[2J\n"))
        timer.start()
        part = read_log(driver, after=part.cursor, wait_seconds=20)
        timer.join()
        assert part.lines == ["third \x1b[2J"]
        with pytest.raises(EdgekitError, match="no journal of the agent"):
            read_log(driver, journal=True)
        path.write_text(before)


def test_a_thief_at_the_door_reads_no_other_file(place: Place) -> None:
    words = ("--lines", "1", "--since", "0", "--wait", "0")
    with place.driver() as driver:
        assert driver.call("logs", *words)["lost"] is False
        for wrong in (
            (),
            (*words, "--root", "/etc"),
            (*words, "/etc/shadow"),
            (*words, "--after", "x --journal"),
            (*words, "--after", "../../etc/passwd"),
            ("--lines", "1", "--since", "0", "--wait", "999"),
            ("--lines", "-1", "--since", "0", "--wait", "0"),
        ):
            with pytest.raises(VerificationError, match="takes only signed releases"):
                driver.call("logs", *wrong)


def test_a_cursor_of_nonsense_does_no_harm(place: Place) -> None:
    with place.driver() as driver:
        for cursor in ("0:", "99999999999:ffff", "5:zz"):
            part = read_log(driver, lines=1, after=cursor)
            assert isinstance(part.lines, list)
        with pytest.raises(EdgekitError):
            read_log(driver, after="abc")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = make_project(tmp_path / "project", 1, None)
    (project.root() / layout.LOG).mkdir(parents=True)
    return project


def test_a_log_without_an_agent_is_shown_and_moves_no_cursor(project: Project) -> None:
    path = project.root() / layout.LOG_FILE
    path.write_bytes(b"calm\n\x1b]0;owned\x07\x1b[2J\xff\x9b31m red\n")
    shown = project.edgekit("logs", "demo")
    assert shown.splitlines()[0] == "calm"
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    told = json.loads(project.edgekit("logs", "demo", "-n", "1", "--json"))
    assert len(told["lines"]) == 1
    for wrong in (("--since", "soon"), ("--follow", "--json"), ("-n", "-1")):
        assert project.run("logs", "demo", *wrong).returncode == 2
    refused = project.run("logs", "demo", "--journal")
    assert (refused.returncode, "leave --journal out" in refused.stderr) == (1, True)


def test_follow_goes_over_a_rotation_and_ends_with_ctrl_c(project: Project) -> None:
    path = project.root() / layout.LOG_FILE
    path.write_text("old\n" + "x" * log.LOG_BYTES + "\nlast\n")
    with tools.interruptible():
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "logs", "demo", "--follow", "-n", "1"],
            cwd=project.folder, env=project.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "last\n"
    with path.open("a") as file:
        file.write("before\n")
    log.rotate(path)
    with path.open("a") as file:
        file.write("after\n")
    assert [process.stdout.readline() for _ in range(2)] == ["before\n", "after\n"]
    os.kill(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert errors.strip() == "the log of demo is not followed any more"


def test_the_journal_of_a_real_systemd(device_with_systemd: SystemdDevice) -> None:
    device, root = device_with_systemd, "/root/ek"

    def read(*words: str) -> dict[str, object]:
        said = device.exec("python3", "-", root, "--journal", *words, stdin=READ_LOG.read_bytes())
        told: dict[str, object] = json.loads(said)
        return told

    device.exec("mkdir", "-p", f"{root}/etc")
    device.exec("sh", "-c", f"echo systemd-system > {root}/etc/supervisor")
    device.exec("systemd-run", "--wait", "--unit", "edgekit-agent.service", "echo", "it speaks")
    first = read("--lines", "50")
    assert "it speaks" in str(first["lines"])
    device.exec("systemd-run", "--wait", "--unit", "edgekit-agent.service", "echo", "once more")
    then = read("--after", str(first["cursor"]), "--wait", "5")
    assert "once more" in str(then["lines"])
    assert "it speaks" not in str(then["lines"])
