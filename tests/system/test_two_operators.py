"""Two operators and one device, by the command line: a window, a hook, and a lease between them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import project as projects
from edgekit.fleet.rollout.device import DeviceState
from tests import tools
from tests.conftest import Project, make_project

pytestmark = pytest.mark.timeout(600)

FLEET = """
[rollout]
window = "{window}"
hook_before = ["./before.sh", "a word"]

[devices.demo]
address = "local:{root}"
threads = 2
"""
HOOK = """#!/bin/sh
echo "$1|$EDGEKIT_ROLLOUT|$EDGEKIT_WAVE|$EDGEKIT_DEVICES|$EDGEKIT_RELEASE" >> told
"""


def later(hours: int) -> str:
    """A window that begins in some hours and lasts one."""
    begins = datetime.now(UTC) + timedelta(hours=hours)
    return f"{begins:%H}:00-{begins:%H}:59 UTC"


def operator(folder: Path, port: int, model: Path, root: Path, window: str) -> Project:
    made = make_project(folder, port, model)
    (folder / "fleet.toml").write_text(FLEET.format(window=window, root=root))
    (folder / "before.sh").write_text(HOOK)
    (folder / "before.sh").chmod(0o755)
    return made


@pytest.fixture(scope="module")
def operators(
    smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, Project]]:
    """Ada, whose window is closed, and Bob, who has a copy of the project and no window."""
    folder = tmp_path_factory.mktemp("operators")
    with tools.mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        root = Project(folder / "ada", broker.port).root()
        ada = operator(folder / "ada", broker.port, smollm2, root, later(6))
        ada.copy_root(smollm2)
        yield ada, operator(folder / "bob", broker.port, smollm2, root, "always")
        ada.edgekit("stop", "demo")


def lease_of(project: Project) -> dict[str, Any]:
    return json.loads(project.edgekit("state", "demo", "--json"))["lease"] or {}


def stands(project: Project) -> DeviceState | None:
    book = projects.find(project.folder).rollouts
    if not book.numbers():
        return None
    return book.journal().replay().devices["demo"].state


def test_a_staged_device_waits_for_its_window_and_is_held_until_then(
    operators: tuple[Project, Project],
) -> None:
    ada, bob = operators
    before = len(projects.find(ada.folder).rollouts.numbers())
    with tools.interruptible():
        push = subprocess.Popen(
            [sys.executable, "-m", "edgekit", "push", "demo"],
            cwd=ada.folder,
            env=ada.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        tools.eventually(
            lambda: (
                len(projects.find(ada.folder).rollouts.numbers()) > before
                and stands(ada) == DeviceState.STAGED
            ),
            120,
        )
        release = json.loads(ada.edgekit("state", "demo", "--json"))["current"]
        held = lease_of(ada)
        assert held["about"] == f"rollout-{before + 1}"
        assert 5 * 3600 < held["left_seconds"] < 7 * 3600 + 600
        shown = f"held       by {held['holder']} (rollout-{before + 1})"
        assert shown in ada.edgekit("state", "demo")

        for words in (["push", "demo"], ["rollback", "demo"]):
            refused = bob.run(*words)
            assert refused.returncode == 1, refused.stderr
            assert f"{held['holder']} (rollout-{before + 1}) holds the device" in refused.stderr
            assert "--take-over" in refused.stderr
        began = time.monotonic()
        assert bob.run("push", "demo", "--lock-wait", "4").returncode == 1
        assert time.monotonic() - began >= 4
    finally:
        push.send_signal(signal.SIGINT)
        _, said = push.communicate(timeout=60)
    assert push.returncode == 3, said
    assert "demo: staged; it is switched from" in said
    assert "before wave 1: ./before.sh 'a word'" in said
    told = (ada.folder / "told").read_text().splitlines()
    assert told == [f"a word|{before + 1}|1|demo|{release}"]

    bob.edgekit("push", "demo", "--take-over")  # its controller has ended, its intention has not
    assert lease_of(bob) == {}
    ada.edgekit("push", "demo", "--window", "always")  # a new rollout knows what it does


def test_a_hook_that_fails_pauses_before_any_device_is_touched(
    operators: tuple[Project, Project],
) -> None:
    _, bob = operators
    (bob.folder / "before.sh").write_text("#!/bin/sh\necho 'the line is busy' >&2\nexit 1\n")
    failed = bob.run("push", "demo")
    assert failed.returncode == 3
    assert "is paused" in failed.stderr
    assert "the line is busy" in failed.stderr
    assert stands(bob) == DeviceState.WAITING
    (bob.folder / "before.sh").chmod(0o644)
    refused = bob.run("push", "demo")
    assert refused.returncode == 2
    assert "hook_before: ./before.sh is no program" in refused.stderr
