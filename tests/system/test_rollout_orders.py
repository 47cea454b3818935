"""The verbs around a rollout with a real device in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.fleet.rollout.book import RolloutBook
from edgekit.fleet.rollout.phases import RolloutPhase
from tests import tools
from tests.conftest import PACK, Project, make_project

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def device(smollm2: Path, tmp_path: Path) -> Iterator[Project]:
    """A device with a good release, and another bundle to push."""
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        project.edgekit("start", "demo")
        project.edgekit("pack", str(smollm2), "--name", "again", "--version", "2", *PACK)
        yield project
        project.edgekit("stop", "demo")


def told(project: Project, *words: str) -> Any:
    return json.loads(project.edgekit(*words, "--json"))


def test_a_finished_rollout_is_told_reported_and_taken_back(device: Project) -> None:
    before = told(device, "state", "demo")["current"]
    device.edgekit("push", "demo", "--bundle", "again:2", "--wait")
    status = told(device, "status")
    assert (status["phase"], status["name"], status["holder"]) == ("done", "again:2", "")
    assert status["counts"] == {"good": 1}
    assert told(device, "state", "demo")["current"] == status["release"] != before
    assert "takes 1 device back" in device.edgekit("status")

    refused = device.run("rollback", "--rollout", "newest")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    manifest = device.store / "blobs" / "sha256" / status["release"].removeprefix("sha256:")
    manifest.rename(aside := manifest.with_name("aside"))  # the way back needs no bundle
    device.edgekit("rollback", "--rollout", "newest", "--yes")
    aside.rename(manifest)
    assert told(device, "state", "demo")["current"] == before
    assert told(device, "status")["phase"] == "back"

    device.edgekit("report", "-o", "page.html")
    page = (device.folder / "page.html").read_text("utf-8")
    status = told(device, "status")
    assert status["head"] in page
    assert "again:2" in page
    listed = told(device, "rollouts")["rollouts"][-1]
    assert listed["head"] == status["head"]


def test_a_push_is_paused_from_another_terminal_and_resumed_after_its_end(device: Project) -> None:
    book = RolloutBook(device.folder / ".edgekit" / "rollouts")
    before = len(book.numbers())  # the push that made the shared device has one
    push = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "push", "demo", "--bundle", "again:2", "--wait"],
        cwd=device.folder,
        env=device.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(book.numbers()) == before or book.journal().replay().phase != RolloutPhase.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    device.edgekit("pause", "--reason", "a test")
    said, _ = push.communicate(timeout=120)
    assert push.returncode in (1, 3), said
    status = told(device, "status")
    assert status["phase"] == "paused"
    assert status["reason"].endswith("paused it: a test")
    assert status["holder"] == ""
    device.edgekit("resume")
    status = told(device, "status")
    assert (status["phase"], status["counts"]) == ("done", {"good": 1})
    assert told(device, "state", "demo")["current"] == status["release"]
    watched = device.run("status", "--watch")
    assert watched.returncode == 0
