"""`edgekit broker acl` as a command: what it keeps, what it hides, what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import tools
from tests.conftest import Project, make_project

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three devices."""
    project = make_project(tmp_path_factory.mktemp("project"), 1, None)
    with (project.folder / "fleet.toml").open("a") as file:
        file.writelines(f'[devices.{name}]\naddress = "ssh:{name}"\n' for name in ("pi-1", "pi-2"))
    return project


def test_what_is_there_is_not_overwritten_and_passwords_stay(
    project: Project, tmp_path: Path
) -> None:
    command = ("broker", "acl", str(tmp_path), "--requester", "alice")
    first = json.loads(project.edgekit(*command, "--json"))
    kept = {name: Path(path).read_text() for name, path in first["passwords"].items()}
    assert sorted(kept) == ["alice", "demo", "pi-1", "pi-2"]
    assert len(set(kept.values())) == len(kept)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = project.run(*command, "--requester", "bob")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    done = project.run(*command, "--requester", "bob", "--force")
    assert done.returncode == 0
    assert {name: (tmp_path / "passwords" / name).read_text() for name in kept} == kept
    hashed = (tmp_path / "mosquitto" / "passwd").read_text()
    assert [line.partition(":")[0] for line in hashed.splitlines()] == [
        *("demo", "pi-1", "pi-2", "alice", "bob")
    ]
    for text in kept.values():
        assert text.strip() not in done.stdout + done.stderr + hashed
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "passwords").iterdir()} == {0o600}
    assert (tmp_path / "mosquitto" / "passwd").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "passwords").stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_password_is_stored_as_mosquitto_itself_stores_it(
    project: Project, tmp_path: Path
) -> None:
    project.edgekit("broker", "acl", str(tmp_path), "--requester", "alice")
    ours = (tmp_path / "mosquitto" / "passwd").read_text().splitlines()[-1]
    theirs = tmp_path / "theirs"
    tool = [tools.find("mosquitto_passwd"), "-b", "-c", str(theirs), "alice", "secret"]
    subprocess.run(tool, check=True, timeout=30)

    def shape(line: str) -> tuple[str, str, str, list[int]]:
        name, _, rest = line.partition(":")
        _, kind, rounds, *fields = rest.split("$")
        return name, kind, rounds, [len(text) for text in fields]

    assert shape(ours) == shape(theirs.read_text().strip())


def test_a_name_cannot_be_a_device_s_and_a_requester_s(project: Project, tmp_path: Path) -> None:
    done = project.run("broker", "acl", str(tmp_path), "--requester", "pi-1")
    assert done.returncode == 2
    assert "pi-1 cannot be a device and a requester" in done.stderr
    assert not list(tmp_path.iterdir())
    assert project.run("broker", "acl", str(tmp_path), "--requester", "a/b").returncode == 2
