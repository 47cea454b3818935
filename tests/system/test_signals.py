"""Ctrl-C and SIGTERM: nothing is left half-made, and nothing that was promised is dropped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgekit.client import Accepted, Final, Requester, devices
from edgekit.core.config import BrokerConfig
from tests import tools
from tests.attacked import snapshot
from tests.conftest import Project, make_project
from tests.tools import eventually

pytestmark = pytest.mark.timeout(120)
STORY = {"messages": [{"role": "user", "content": "Tell me a long story."}]}


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    with tools.interruptible():
        return subprocess.Popen(
            [sys.executable, "-m", "edgekit", *arguments],
            cwd=project.folder,
            env=project.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def status(project: Project) -> str:
    return str(devices(project.broker, "tester")["demo"]["status"]["state"])


def test_ctrl_c_in_ask_cancels_the_prompt_on_the_device(device: Project) -> None:
    asking = start(device, "ask", "demo", "Tell me a long story.", "--max-tokens", "900")
    assert asking.stdout is not None
    assert asking.stdout.read(1)
    asking.send_signal(signal.SIGINT)
    _, errors = asking.communicate(timeout=10)
    assert asking.returncode == 130
    assert "Traceback" not in errors
    eventually(lambda: status(device) == "ready", 20, "the device is ready")


def test_sigterm_lets_the_running_answer_end_and_refuses_what_waits(
    smollm2: Path, tmp_path: Path
) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        project.edgekit("push", "demo")
        with Requester(project.broker, "tester") as requester:
            replies = requester.ask("demo", STORY | {"max_tokens": 150})
            assert isinstance(next(replies), Accepted)
            next(replies)
            stopping = threading.Thread(target=project.edgekit, args=("stop", "demo"))
            stopping.start()
            final = list(replies)[-1]
            stopping.join(60)
        assert isinstance(final, Final)
        assert final.finish_reason == "length"
        assert final.completion["usage"]["completion_tokens"] == 150
        assert status(project) == "offline"


def test_broker_run_serves_until_ctrl_c(tmp_path: Path) -> None:
    port = tools.free_port()
    project = Project(tmp_path, port)
    running = start(project, "broker", "run", "--port", str(port))
    assert running.stdout is not None
    assert str(port) in running.stdout.readline()
    assert devices(BrokerConfig("127.0.0.1", port), "tester") == {}
    taken = project.run("broker", "run", "--port", str(port))
    assert taken.returncode == 1
    assert "--port" in taken.stderr
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=10)
    assert "Traceback" not in errors
    with pytest.raises(ConnectionRefusedError):
        tools.connect(port)


def test_sigterm_ends_a_broker_that_a_script_started_in_the_background(tmp_path: Path) -> None:
    """A shell starts such a command with SIGINT ignored."""
    port = tools.free_port()
    running = subprocess.Popen(
        [
            *("env", "--ignore-signal=INT", sys.executable, "-m", "edgekit"),
            *("broker", "run", "--port", str(port)),
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    tools.wait_for_port(port, running, 20)
    running.terminate()
    _, errors = running.communicate(timeout=20)
    assert b"Traceback" not in errors


def test_ctrl_c_in_push_leaves_no_half_made_release(smollm2: Path, tmp_path: Path) -> None:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        pushing = start(project, "push", "demo")
        deadline = time.monotonic() + 20
        while not (project.root() / "blobs").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        pushing.send_signal(signal.SIGINT)
        _, errors = pushing.communicate(timeout=30)
        assert pushing.returncode == 3
        assert "Traceback" not in errors
        stopped = re.search(r"rollout (\d+) was stopped: 1 staging", errors)
        assert stopped, errors
        assert f"`edgekit resume {stopped[1]}` goes on" in errors
        releases = project.root() / "releases"
        # A verb of the device that was on its way may leave a folder without a name. Where it came
        # to its end, what has the release's name is whole: as the next push makes it.
        named = [path.rename(tmp_path / path.name) for path in releases.glob("[!.]*")]
        project.edgekit("push", "demo")
        for path in named:
            assert snapshot(path) == snapshot(releases / path.name)
        assert len(list(releases.iterdir())) == 1, "the push has taken away what was left"
        assert "Paris" in project.edgekit("ask", "demo", "What is the capital of France?")
        project.edgekit("stop", "demo")
