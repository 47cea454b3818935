"""`push --plan` and `push --from`, with a real model, devices in folders and behind a real sshd."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import shared, tools
from tests.conftest import PACK, Project, make_project

pytestmark = pytest.mark.timeout(400)


@dataclass
class Fleet:
    """A project with `demo`, which has a release, `box`, which has nothing, and `off`, which is.

    `box` is an account behind a real sshd.
    """

    project: Project
    box: Path  # ROOT that box would get
    newer: str  # reference of a bundle that no device has

    def plan(self, *words: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
        done = self.project.run("push", "--plan", "--json", *words)
        assert "Traceback" not in done.stderr
        told = json.loads(done.stdout)
        return done.returncode, told, {each["device"]: each for each in told["devices"]}


def contents(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: what it is, when it was written, and its bytes."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def fleet(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home, account = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("account")
    (home / ".ssh").mkdir(mode=0o700)
    with (
        tools.mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker,
        tools.sshd(tmp_path_factory.mktemp("sshd")) as server,
    ):
        project = make_project(tmp_path_factory.mktemp("project"), broker.port, smollm2)
        project.copy_root(smollm2)
        project.environment |= {"HOME": str(home), "SSH_AUTH_SOCK": ""}
        (home / ".ssh" / "config").write_text(
            f"Host box\n  HostName 127.0.0.1\n  Port {server.port}\n"
            f"  IdentityFile {server.identity}\n  UserKnownHostsFile {server.known_hosts}\n"
            f"Host off\n  HostName 127.0.0.1\n  Port {tools.free_port()}\n"
        )
        with (project.folder / "fleet.toml").open("a") as file:
            file.write(
                f'\n[devices.box]\naddress = "ssh:box"\nroot = "{account / "root"}"\n'
                '\n[devices.off]\naddress = "ssh:off"\n'
            )
        try:
            project.edgekit("push", "demo")
            project.edgekit("pack", str(smollm2), "--name", "next", "--context", "512", *PACK)
            yield Fleet(project, account / "root", "next")
        finally:
            project.run("stop", "demo")
            project.run("stop", "box")


def test_a_plan_says_what_each_device_would_get_and_changes_nothing(fleet: Fleet) -> None:
    root = fleet.project.root()
    before, trust = contents(root), contents(fleet.project.folder / "trust")
    code, told, devices = fleet.plan("demo", "box", "off")
    assert code == 3
    demo, box, off = devices["demo"], devices["box"], devices["off"]
    assert demo["outcome"] == "switched"
    assert demo["estimated"] is False
    assert 0 < demo["bytes"] < 1_000_000  # the model and the runtime are there
    assert demo["runs"]["name"] == "smollm2"
    assert demo["free_after"] < demo["free"]
    assert (box["outcome"], box["estimated"], box["runs"]) == ("switched", True, None)
    assert 10_000_000 < box["first_contact"] < 20_000_000
    assert box["bytes"] > 88_000_000
    assert box["seconds"] is None
    assert box["hardware_class"] == demo["hardware_class"]
    assert off["outcome"] == "away"
    assert "cannot be reached" in off["error"]["what"]
    assert told["waves"] == [["box", "demo", "off"]]
    assert not fleet.box.exists()
    after = contents(root)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # its agent runs meanwhile, and writes these itself
    own = r"log(/|$)|journal\.db|run/broker|releases/\w+(/(quality|baseline)\.json)?$"
    assert not {name for name in changed if not re.match(own, name)}
    assert contents(fleet.project.folder / "trust") == trust


def test_a_plan_of_what_runs_says_already(fleet: Fleet) -> None:
    code, _, devices = fleet.plan("demo", "--bundle", "smollm2")
    assert (code, devices["demo"]["outcome"], devices["demo"]["bytes"]) == (0, "already", 0)


def test_a_plan_is_shown_as_a_table(fleet: Fleet) -> None:
    done = fleet.project.run("push", "--plan", "demo", "box")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:8])) <= 100
    print(done.stdout)
    rows = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("1 ")}
    assert set(rows) == {"demo", "box"}
    assert "next:1" in rows["demo"]
    assert "~" in rows["box"]
    assert "first contact with box" in done.stdout
    assert "no push has measured the rate yet" in done.stdout
    assert "no agent to ask on box" in done.stdout


def test_a_device_that_would_be_refused_says_why_with_the_push_s_own_words(fleet: Fleet) -> None:
    file = fleet.project.folder / "fleet.toml"
    text = file.read_text()
    try:
        file.write_text(text + '\n[devices.odd]\naddress = "local:odd:root"\n')
        done = fleet.project.run("push", "--plan", "odd", "--json")
        planned = json.loads(done.stdout)["devices"][0]["error"]
        pushed = fleet.project.run("push", "odd")
        assert done.returncode == pushed.returncode == 1
        assert planned["what"] in pushed.stderr
        assert planned["why"] in pushed.stderr
    finally:
        file.write_text(text)


def test_a_saved_plan_is_refused_where_the_world_has_changed(fleet: Fleet, tmp_path: Path) -> None:
    project, saved = fleet.project, tmp_path / "plan.json"
    assert project.run("push", "--plan", "--save", str(saved), "demo").returncode == 0
    files = {name: project.folder / name for name in ("fleet.toml", "trust")}
    text, plan = files["fleet.toml"].read_text(), saved.read_text()
    root = project.root()

    def refused(why: str, code: int = 4) -> None:
        before = contents(root / "blobs")
        done = project.run("push", "--from", str(saved))
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        assert re.search(why, done.stderr), done.stderr
        assert contents(root / "blobs") == before

    try:
        files["fleet.toml"].write_text(text.replace("threads = 2", "threads = 1", 1))
        refused("demo has other settings")
        files["fleet.toml"].write_text(text.replace("local:.edgekit/devices/demo", "local:else"))
        refused("demo has another address")
        files["fleet.toml"].write_text(text.replace("[devices.demo]", "[devices.other]"))
        refused("demo is not in fleet.toml any more")
        files["fleet.toml"].write_text(text)
        saved.write_text(plan.replace('"parallel": 8', '"parallel": 80'))
        refused("is not as `edgekit push --plan` wrote it")
        saved.write_text(plan.replace('"version": 1', '"version": 7', 1))
        refused("version 7", code=2)
        saved.write_text(plan)
        index = project.folder / ".edgekit" / "store" / "index.json"
        bundles = index.read_text()
        listed = json.loads(bundles)
        index.write_text(json.dumps(listed | {"manifests": listed["manifests"][:1]}))
        refused("names no bundles", code=2)
        index.write_text(bundles)
        shutil.copytree(files["trust"], tmp_path / "trust")
        project.edgekit("key", "rotate", "online")
        refused("root.json has changed")
        shutil.rmtree(files["trust"])
        shutil.copytree(tmp_path / "trust", files["trust"])
    finally:
        files["fleet.toml"].write_text(text)
    done = project.run("push", "--from", str(saved), "demo")
    assert done.returncode == 2
    assert "stands alone" in done.stderr


def test_a_saved_plan_is_pushed_exactly_and_once(fleet: Fleet, tmp_path: Path) -> None:
    project, saved = fleet.project, tmp_path / "plan.json"
    code, told, devices = fleet.plan("demo", "--save", str(saved))
    assert (code, told["saved"]) == (0, str(saved))
    # a newer bundle is not what the plan says
    folder = project.folder / ".edgekit" / "store" / "index.json"
    before = json.loads(folder.read_text())
    assert len(before["manifests"]) == 2
    pushed = json.loads(project.edgekit("push", "--from", str(saved), "--json"))
    assert pushed["release"] == told["release"]
    (one,) = pushed["pushed"]
    assert one["bytes_sent"] == devices["demo"]["bytes"]
    assert one["blobs_sent"] == len(devices["demo"]["sends"])
    state = json.loads(project.edgekit("state", "demo", "--json"))
    assert state["current"] == told["release"]
    done = project.run("push", "--from", str(saved))
    assert done.returncode == 4
    assert "demo runs" in done.stderr
    # the switch was measured
    _, _, after = fleet.plan("demo")
    assert after["demo"]["outcome"] == "already"
    assert after["demo"]["silent_seconds"] == one["silent_seconds"]


def test_an_agent_of_before_plans_is_estimated(fleet: Fleet) -> None:
    """The agent on the device does not know the question: it is as if its parser were older."""
    root = fleet.project.root()
    tree = (root / "current" / "agent").resolve() / "edgekit" / "agent" / "arguments.py"
    text = tree.read_text()
    older = text.replace('"--dry-run", action="store_true", help="with', '"--dry", help="')
    assert older != text
    shared.replace(tree, older.encode())
    try:
        before = contents(root / "blobs")
        code, _, devices = fleet.plan("demo", "--bundle", "smollm2")
        assert (code, devices["demo"]["estimated"]) == (0, True), devices
        assert devices["demo"]["outcome"] == "switched"
        assert contents(root / "blobs") == before
    finally:
        shared.replace(tree, text.encode())
