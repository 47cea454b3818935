"""Signing on the command line, with a real bundle: unsigned, carried without a network, pushed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekit.bundle.layout import Layout
from edgekit.core.digest import Digest
from tests import tools
from tests.conftest import Project, make_project

pytestmark = pytest.mark.timeout(600)

UNREACHABLE = '[devices.pi]\naddress = "ssh:nobody@127.0.0.1:1"\n'


@pytest.fixture
def project(smollm2: Path, tmp_path: Path) -> Project:
    """A project with a signed bundle; its broker does not run."""
    return make_project(tmp_path / "project", tools.free_port(), smollm2)


def refused(project: Project, code: int, *arguments: str) -> str:
    done = project.run(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_unsigned_bundle_is_refused_before_a_connection_and_its_next_step_works(
    project: Project,
) -> None:
    (project.folder / "fleet.toml").write_text(UNREACHABLE)
    shutil.rmtree(project.folder / "trust")  # a project of before trust
    said = refused(project, 4, "push", "pi")
    assert "the bundle smollm2:1 is not signed" in said
    assert "`edgekit sign smollm2:1`" in said
    assert "not signed" in project.edgekit("inspect")
    refused(project, 4, "export", "smollm2:1", "-o", "x.tar")
    refused(project, 4, "verify", "smollm2:1")
    assert "counter 1" in project.edgekit("sign", "smollm2:1")
    assert "already" in project.edgekit("sign", "smollm2:1")
    assert "cannot be reached" in refused(project, 1, "push", "pi")


def test_pack_signs_and_says_so_or_says_what_signs(
    project: Project, smollm2: Path, tmp_path: Path
) -> None:
    again = json.loads(project.edgekit("pack", str(smollm2), "--name", "b", "--json"))
    assert again["release"] == {
        "name": "b", "version": "1", "counter": 2, "hardware": ["linux/amd64"], "rollback": 0,
    }  # fmt: skip
    usb = tmp_path / "usb"
    usb.mkdir()
    inside = refused(project, 2, "key", "export", "targets", str(project.folder / "trust"))
    assert "lies in the project" in inside
    project.edgekit("key", "export", "targets", str(usb))
    assert not (project.folder / ".edgekit" / "keys" / "targets.pem").exists()
    said = project.edgekit("pack", str(smollm2), "--name", "c")
    assert "the targets key is not on this machine; `edgekit sign c:1`" in said
    assert "`edgekit sign c:1`" in refused(project, 4, "push")
    assert f"there is no {usb}/no.pem" in refused(
        project, 2, "sign", "c:1", "--key", f"{usb}/no.pem"
    )
    assert "counter 3" in project.edgekit("sign", "c:1", "--key", f"{usb}/targets.pem")
    assert "counter 3" in project.edgekit("inspect", "c:1")
    keys = json.loads(project.edgekit("key", "list", "--json"))
    assert {k["role"] for k in keys["keys"] if k["file"]} == {"root", "online"}


def test_a_bundle_goes_to_another_controller_by_a_folder_and_on_to_a_device(
    project: Project, tmp_path: Path
) -> None:
    usb = tmp_path / "usb"
    usb.mkdir()
    (usb / "photo.jpg").write_bytes(b"")
    assert "holds other files" in refused(project, 2, "export", "smollm2", "-o", str(usb))
    for target in ("bundle.tar", "edgekit"):
        project.edgekit("export", "smollm2:1", "-o", str(usb / target))
    assert "no runtime for linux/arm64" in refused(
        project, 2, "export", "smollm2:1", "-o", "x", "--platform", "linux/arm64"
    )
    away = Project(tmp_path / "away", tools.free_port())
    away.folder.mkdir()
    away.edgekit("init", ".", "--no-keys", "--port", str(away.port))
    assert not (away.folder / "trust").exists()
    first = away.run("verify", str(usb / "bundle.tar"))
    assert first.returncode == 0, first.stderr
    assert "the export's own root was believed" in first.stderr
    assert not (away.folder / "trust").exists()
    taken = json.loads(away.edgekit("import", str(usb / "edgekit"), "--json"))
    release = Layout(project.store).resolve("smollm2:1").digest
    assert taken == {"imported": {"smollm2:1": release}, "first_use": True}
    assert (
        json.loads(away.edgekit("import", str(usb / "bundle.tar"), "--json"))["first_use"] is False
    )
    (checked,) = json.loads(away.edgekit("verify", "smollm2:1", "--json"))["verified"]
    assert (checked["digest"], checked["release"]["counter"]) == (release, 1)
    blob = max((away.store / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)
    with blob.open("r+b") as file:
        file.write(b"x")
    assert "corrupt" in refused(away, 4, "verify", "smollm2:1")
    shutil.rmtree(away.folder / ".edgekit" / "store")
    away.edgekit("import", str(usb / "bundle.tar"))
    with (away.folder / "fleet.toml").open("a") as fleet:
        fleet.write("threads = 2\n")
    with tools.mosquitto(tmp_path) as broker:
        away.port = broker.port
        pushed = json.loads(away.edgekit("push", "demo", "--json"))["pushed"][0]
        assert pushed["changed"] is True
        assert "Paris" in away.edgekit("ask", "demo", "What is the capital of France?")
        away.edgekit("stop", "demo")
    assert not (away.folder / ".edgekit" / "keys" / "targets.pem").exists()
    assert Digest.parse(pushed["release"]) == release


def test_every_key_command_says_what_it_did(project: Project) -> None:
    steps = [
        ("rotate", "root"), ("rotate", "targets"), ("rotate", "online"), ("add", "targets"),
        ("threshold", "targets", "2"),
    ]  # fmt: skip
    for step in steps:
        done = json.loads(project.edgekit("key", *step, "--json"))
        assert (done["published"], done["waits"]) == (True, []), step
    listed = json.loads(project.edgekit("key", "list", "--json"))
    assert listed["thresholds"] == {"root": 1, "targets": 2, "online": 1}
    gone = next(k["keyid"] for k in listed["keys"] if k["role"] == "targets")
    assert "needs 2 signatures" in refused(project, 2, "key", "revoke", gone)
    project.edgekit("key", "threshold", "targets", "1")
    project.edgekit("key", "revoke", gone)
    assert "no change waits" in refused(project, 2, "key", "sign")
    assert "no role 'rooot'" in refused(project, 2, "key", "rotate", "rooot")
    (project.folder / "smollm2").mkdir()  # a model's folder, as it may be called
    for name in ("smollm2:1", "smollm2"):
        assert json.loads(project.edgekit("verify", name, "--json"))["first_use"] is False
    (project.folder / "trust" / "pending.json").write_bytes(b'{"root": "\xff"}')
    assert "pending.json cannot be read" in refused(project, 4, "key", "list")
    project.edgekit("key", "sign", "--discard")
    project.edgekit("key", "list")
