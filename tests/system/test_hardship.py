"""What befalls a device that lives: no Will is published meanwhile, and no prompt is lost silently.

Each test runs the agent of a release as its supervisor would, on a ROOT of its own. The two long
ones are started first and looked at last.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.client import Accepted, Delta, Final, Reply, Requester
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import PACK, make_project
from tests.tools import eventually

pytestmark = pytest.mark.timeout(600)

CUT_SECONDS = 90
STOP_SECONDS = 60
KEEPALIVE_SECONDS = 5
CONTEXT_TOKENS = 4608
LONG_PROMPT_TOKENS = 4000
CUT = Path(__file__).parents[1] / "faults" / "network_cut.py"
STORY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 120,
}


@pytest.fixture(scope="module")
def root(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A device with an active release, which does not run."""
    folder = tmp_path_factory.mktemp("hardship")
    with tools.mosquitto(folder) as broker:
        project = make_project(folder / "project", broker.port, None)
        context = ("--context", str(CONTEXT_TOKENS))
        project.edgekit("pack", str(smollm2), "--name", "smollm2", *context, *PACK)
        project.edgekit("push", "demo")
        project.edgekit("stop", "demo")
    return Root(project.root())


def copy_of(root: Root, folder: Path) -> Root:
    """Another device with the same release: blobs and trees are links, what is written is not."""
    subprocess.run(["cp", "-al", str(root.path), str(folder)], check=True)
    copy = Root(folder)
    for path in (copy.agent_config, *folder.glob("journal.db*"), *folder.glob("log/*")):
        path.unlink()
    return copy


@dataclass
class Agent:
    """The agent's process, and what its device said of itself."""

    root: Root
    broker: tools.MosquittoBroker
    process: subprocess.Popen[bytes]
    states: list[str] = field(default_factory=list)

    @property
    def config(self) -> BrokerConfig:
        return BrokerConfig("127.0.0.1", self.broker.port)

    @property
    def log(self) -> str:
        return self.root.log_file.read_text()

    @property
    def worker(self) -> int:
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def final(self, replies: Iterator[Reply]) -> Final:
        last = list(replies)[-1]
        assert isinstance(last, Final)
        return last

    def ask(self, body: dict[str, Any], **options: Any) -> Final:
        with Requester(self.config, "tester") as requester:
            return self.final(requester.ask("demo", body, **options))

    def wait_for(self, state: str, seconds: float = 60.0) -> None:
        eventually(lambda: self.states and self.states[-1] == state, seconds)


@contextmanager
def agent(root: Root, folder: Path) -> Iterator[Agent]:
    """An agent that serves, at a broker of its own."""
    with tools.mosquitto(folder) as broker:
        config = AgentConfig(
            "demo",
            BrokerConfig("127.0.0.1", broker.port, keepalive_seconds=KEEPALIVE_SECONDS),
            drain_seconds=1.0,
            threads=1,
            slots=1,
        )
        root.agent_config.write_bytes(msgspec.toml.encode(config))
        states: list[str] = []
        watcher = MqttClient(
            BrokerConfig("127.0.0.1", broker.port),
            "watcher",
            subscriptions=[(topics.status_topic("demo"), 1)],
            on_message=lambda m: states.append(json.loads(m.payload)["state"]),
        )
        watcher.connect()
        with root.log_file.open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-P", "-m", "edgekit.agent"),
                    *("serve", "--root", str(root.path)),
                ],
                env=root.environment(root.current.resolve()),
                stdout=log,
                stderr=log,
            )
        try:
            made = Agent(root, broker, process, states)
            eventually(root.ready_file.exists, 90)
            yield made
        finally:
            process.terminate()
            process.wait(30)
            watcher.close()


@pytest.fixture(scope="module")
def cut(root: Root, tmp_path_factory: pytest.TempPathFactory) -> subprocess.Popen[str]:
    """The story of a device whose network is cut, begun."""
    folder = tmp_path_factory.mktemp("cut")
    device = copy_of(root, folder / "root")
    namespace = ["unshare", "--net"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    return subprocess.Popen(
        [*namespace, sys.executable, str(CUT), str(device.path), str(folder), str(CUT_SECONDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


@dataclass
class Stopped:
    """What came of a prompt whose worker was stopped for a minute."""

    thread: threading.Thread
    replies: list[Reply] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    late_position: int = -1
    connections_lost: int = -1


@pytest.fixture(scope="module")
def stopped(root: Root, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """The story of a worker that is stopped, begun."""
    folder = tmp_path_factory.mktemp("stopped")

    def story() -> None:
        with agent(copy_of(root, folder / "root"), folder) as device:
            with Requester(device.config, "tester") as requester:
                replies = requester.ask("demo", STORY, expiry_seconds=300)
                for reply in replies:
                    told.replies.append(reply)
                    if isinstance(reply, Delta):
                        break
                os.kill(device.worker, signal.SIGSTOP)
                late = requester.ask("demo", STORY, expiry_seconds=300)
                accepted = next(late)
                assert isinstance(accepted, Accepted)
                told.late_position = accepted.position
                time.sleep(STOP_SECONDS)
                os.kill(device.worker, signal.SIGCONT)
                told.replies += replies
                told.replies.append(device.final(late))
            told.states = list(device.states)
            told.connections_lost = device.log.count("connection lost")

    told = Stopped(threading.Thread(target=story, daemon=True))
    told.thread.start()
    return told


def test_both_long_stories_have_begun(
    cut: subprocess.Popen[str], stopped: Stopped, root: Root
) -> None:
    assert cut.poll() is None
    assert stopped.thread.is_alive()


def test_a_prefill_of_thousands_of_tokens_does_not_cost_the_connection(
    root: Root, tmp_path: Path
) -> None:
    words = "word " * (LONG_PROMPT_TOKENS - 50)
    with agent(copy_of(root, tmp_path / "root"), tmp_path) as device:
        began = time.monotonic()
        body = {"messages": [{"role": "user", "content": words}], "max_tokens": 4}
        completion = device.ask(body, expiry_seconds=600).completion
        assert completion["usage"]["prompt_tokens"] > LONG_PROMPT_TOKENS - 100
        assert completion["timings"]["prompt_ms"] > KEEPALIVE_SECONDS * 1e3
        eventually(lambda: time.monotonic() - began > 2 * KEEPALIVE_SECONDS)
        assert "connection lost" not in device.log
        assert "lost" not in device.states


def test_a_broker_that_forgets_everything_loses_no_accepted_prompt(
    root: Root, tmp_path: Path
) -> None:
    with agent(copy_of(root, tmp_path / "root"), tmp_path) as device:
        with Requester(device.config, "tester") as requester:
            asked = [requester.ask("demo", STORY, expiry_seconds=300) for _ in range(3)]
            assert all(isinstance(next(replies), Accepted) for replies in asked)
            device.broker.stop(kill=True)
            time.sleep(1)
            device.broker.start()
            finals = [device.final(replies) for replies in asked]
        assert [f.completion["usage"]["completion_tokens"] for f in finals] == [120] * 3
        assert "lost" not in device.states
        assert device.process.poll() is None


def test_a_full_disk_refuses_prompts_and_ends_nothing(root: Root, tmp_path: Path) -> None:
    """ROOT lies on a small tmpfs, in a mount namespace that ends with the program."""
    device = tmp_path / "device"
    device.mkdir()
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    script = 'mount -t tmpfs -o size=900m none "$1" && cp -a "$0"/. "$1"/ && shift && exec "$@"'
    program = Path(__file__).parents[1] / "faults" / "full_disk.py"
    with tools.mosquitto(tmp_path) as broker:
        done = subprocess.run(
            [
                *(*namespace, "sh", "-c", script, str(root.path), str(device)),
                *(sys.executable, str(program), str(device), str(broker.port)),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["refused"] == "no_storage"
    assert seen["read_only"]
    assert seen["running_prompt_tokens"] == 900  # it was accepted, and its final came later
    assert seen["final_before_there_was_room"] is False
    assert "Paris" in seen["answer_when_there_was_room_again"]
    assert seen["same_process"]
    assert "lost" not in seen["states"]


def test_an_agent_whose_session_is_taken_over_ends_with_a_message(
    root: Root, tmp_path: Path
) -> None:
    """No broker at hand says 0x8E, as broker_capabilities.py has it: this one is played."""
    device = copy_of(root, tmp_path / "root")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(90)
        broker = BrokerConfig("127.0.0.1", server.getsockname()[1])
        device.agent_config.write_bytes(msgspec.toml.encode(AgentConfig("demo", broker)))
        process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-P", "-m", "edgekit.agent"),
                *("serve", "--root", str(device.path)),
            ],
            env=device.environment(device.current.resolve()),
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)  # CONNECT
            connection.sendall(bytes.fromhex("20 03 00 00 00"))  # CONNACK
            subscribe = connection.recv(1 << 16)
            connection.sendall(b"\x90\x05" + subscribe[2:4] + b"\x00\x01\x00")  # SUBACK
            eventually(device.ready_file.exists)
            connection.sendall(bytes.fromhex("E0 02 8E 00"))  # DISCONNECT, Session taken over
            _, errors = process.communicate(timeout=60)
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert process.returncode == 5
    assert f"another client connected to {broker} as demo" in errors
    assert "next:" in errors
    assert "Traceback" not in errors
    assert not device.ready_file.exists()


def test_a_worker_that_stands_still_for_a_minute_costs_nothing(stopped: Stopped) -> None:
    stopped.thread.join(STOP_SECONDS + 240)
    assert not stopped.thread.is_alive()
    first, late = [reply for reply in stopped.replies if isinstance(reply, Final)]
    assert first.completion["usage"]["completion_tokens"] == 120
    assert late.completion["usage"]["completion_tokens"] == 120
    assert stopped.late_position == 1
    assert stopped.connections_lost == 0
    assert "lost" not in stopped.states


def test_a_network_that_is_gone_for_a_while_loses_no_accepted_prompt(
    cut: subprocess.Popen[str],
) -> None:
    out, errors = cut.communicate(timeout=CUT_SECONDS + 300)
    assert cut.returncode == 0, errors
    seen = json.loads(out)
    assert seen["tokens"] == [120, 120]
    assert seen["healed_at"] - seen["cut_at"] >= CUT_SECONDS
    # Both were ready when the network came back: an attempt to connect is at most 15 s away.
    assert seen["ended_at"] - seen["healed_at"] < 45
    states = [state for at, state in seen["states"] if at > seen["cut_at"]]
    assert states[0] == "lost", "the broker cannot know better while the network is away"
    assert states[-1] in ("ready", "busy")
    assert all(at < seen["healed_at"] for at, state in seen["states"] if state == "lost")
