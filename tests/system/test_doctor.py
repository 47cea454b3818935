"""`edgekit doctor` on real obstacles; its advice is followed, and then it finds nothing."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import tools
from tests.conftest import Project, make_project
from tests.harness.site import MODES, serving

pytestmark = pytest.mark.timeout(200)


def diagnoses(project: Project, check: str, *before: str) -> list[dict[str, Any]]:
    """What `doctor` says of one check; `before` are words in front of the command."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "edgekit", "doctor", "--json"],
        cwd=project.folder,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert (done.returncode == 1) == (told["wrong"] > 0)
    found = [each for each in told["diagnoses"] if each["check"] == check]
    assert not [each for each in found if "check itself failed" in each["what"]], found
    return found


def verdicts(project: Project, check: str, *before: str) -> list[str]:
    return [each["verdict"] for each in diagnoses(project, check, *before)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", tools.free_port(), None)


@contextmanager
def running(project: Project, command: str) -> Iterator[None]:
    """A command of an advice that runs until it is ended."""
    words = shlex.split(command)
    assert words[:3] == ["edgekit", "broker", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], env=project.env, stdout=subprocess.DEVNULL
    )
    try:
        tools.wait_for_port(int(words[-1]), process, 20)
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_no_project_and_then_one_without_a_broker(tmp_path: Path) -> None:
    project = Project(tmp_path, tools.free_port())
    (no,) = diagnoses(project, "project")
    assert (no["verdict"], no["next"]) == ("wrong", "`edgekit init` makes a project here")
    project.edgekit("init")
    assert verdicts(project, "project") == ["ok"]
    before = sorted((str(each), each.stat().st_mtime_ns) for each in tmp_path.rglob("*"))
    (off,) = diagnoses(project, "broker")
    assert (off["verdict"], off["why"]) == ("wrong", "nothing listens there")
    with running(project, off["next"].removesuffix(", for a trial")):
        assert verdicts(project, "broker") == ["ok"]
    after = sorted((str(each), each.stat().st_mtime_ns) for each in tmp_path.rglob("*"))
    assert after == before, "it changes nothing"


def test_a_port_that_another_program_has(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        project.port = other.getsockname()[1]
        (taken,) = diagnoses(project, "broker")
    assert taken["verdict"] == "wrong"
    assert f"port {project.port} is taken by " in taken["what"]
    assert f"(process {os.getpid()})" in taken["what"]
    command, _, change = taken["next"].partition(", with ")
    key, value = change.split()[0], int(change.split()[2])
    (project.folder / "edgekit.toml").write_text(f"[broker]\n{key} = {value}\n")
    project.port = value
    with running(project, command):
        assert verdicts(project, "broker") == ["ok"]


@pytest.mark.parametrize("mode", MODES)
def test_the_account_the_password_and_the_requester_of_a_real_mosquitto(
    tmp_path: Path, mode: str
) -> None:
    site_project = make_project(tmp_path / "site-project", 1, None)
    with (site_project.folder / "fleet.toml").open("a") as file:
        for name in ("pi-1", "pi-2"):
            file.write(f'[devices.{name}]\naddress = "pull:"\n[devices.{name}.pull]\n')
            file.write('registry = "127.0.0.1:5000/edgekit"\nplain_http = true\n')
    (tmp_path / "broker").mkdir()
    with serving(site_project, tmp_path / "broker", mode) as site:
        told = {k: v for k, v in msgspec.structs.asdict(site.config("alice")).items() if v}
        project = make_project(tmp_path / "project", told["port"], None)

        def write(head: str, **changed: str) -> None:
            table = msgspec.toml.encode({"broker": told | changed}).decode()
            (project.folder / "edgekit.toml").write_text(f"{head}\n{table}")

        wrong = tmp_path / "wrong"
        wrong.write_text("not the password\n")
        wrong.chmod(0o600)
        write('requester = "alice"', password_file=str(wrong))
        (refused,) = diagnoses(project, "broker")
        assert (refused["verdict"], "refused" in refused["what"]) == ("wrong", True)
        assert "password_file" in refused["next"]

        write("")  # the requester is then USER.HOST
        (other,) = diagnoses(project, "broker")
        assert other["verdict"] == "wrong"
        assert "'alice' not ask as the requester" in other["what"]
        write(other["next"].removesuffix(" at the top of edgekit.toml"))
        assert verdicts(project, "broker") == ["ok"]


def test_keys_that_others_can_read(project: Project) -> None:
    keys = project.folder / ".edgekit" / "keys"
    keys.chmod(0o755)
    (keys / "targets.pem").chmod(0o644)
    (keys / "signing.pem").chmod(0o640)
    found = diagnoses(project, "keys")
    wrong = [each for each in found if each["verdict"] == "wrong"]
    assert len(wrong) == 3
    for each in wrong:
        subprocess.run(shlex.split(each["next"].removeprefix("run: ")), check=True)
    (well,) = diagnoses(project, "keys")
    assert (well["verdict"], "keys here: root, targets, online" in well["what"]) == ("ok", True)


def test_metadata_that_expired_is_signed_anew_as_it_says(tmp_path: Path, smollm2: Path) -> None:
    project = make_project(tmp_path / "project", tools.free_port(), smollm2)
    later = (tools.find("faketime"), "+800 days")
    (expired,) = diagnoses(project, "keys", *later)
    assert (expired["verdict"], "targets.json expired" in expired["what"]) == ("wrong", True)
    words = expired["next"].split()
    subprocess.run(
        [*later, sys.executable, "-m", *words],
        cwd=project.folder, env=project.env, check=True, capture_output=True,
    )  # fmt: skip
    assert verdicts(project, "keys", *later) == ["ok"]


def test_a_clock_that_was_never_set(project: Project) -> None:
    (found,) = diagnoses(project, "clock", tools.find("faketime"), "2020-01-01 00:00:00")
    assert (found["verdict"], "2020-01-01" in found["what"]) == ("wrong", True)


def test_no_key_for_ssh_and_a_device_that_is_not_there(project: Project, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    project.environment = {"HOME": str(home), "SSH_AUTH_SOCK": ""}
    gone = tools.free_port()
    (project.folder / "fleet.toml").write_text(
        f'[devices.pi-1]\naddress = "ssh:ada@127.0.0.1:{gone}"\n'
    )
    (no,) = diagnoses(project, "ssh")
    assert (no["verdict"], "no key to log in with" in no["what"]) == ("wrong", True)
    command = no["next"].partition(",")[0]
    (home / ".ssh").mkdir(mode=0o700)
    made = [*shlex.split(command), "-q", "-N", "", "-f", str(home / ".ssh" / "id_ed25519")]
    subprocess.run(made, check=True, env=project.env)
    (well,) = diagnoses(project, "ssh")
    assert (well["verdict"], "id_ed25519" in well["what"]) == ("ok", True)
    (away,) = diagnoses(project, "devices")
    assert (away["verdict"], str(gone) in away["what"] + away["why"]) == ("wrong", True)


def test_a_fleet_that_cannot_be_read(project: Project) -> None:
    (project.folder / "fleet.toml").write_text("[devices.pi-1]\naddres = 'ssh:pi'\n")
    (found,) = diagnoses(project, "project")
    assert (found["verdict"], "addres" in found["what"] + found["why"]) == ("wrong", True)
    done = project.run("doctor")
    assert done.returncode == 1
    assert "WRONG    project" in done.stdout
    assert "\nok       keys " in done.stdout
