"""What breaks around a device that runs, and that it goes on."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.agent.serve.loop.service import WILL_DELAY_SECONDS
from edgekit.client import Final, Requester, devices
from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests.conftest import Project, make_project
from tests.tools import MosquittoBroker, eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def device(
    file_broker: MosquittoBroker, smollm2: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    project = make_project(tmp_path_factory.mktemp("project"), file_broker.port, smollm2)
    project.copy_root(smollm2)
    project.edgekit("push", "demo")
    yield project
    project.edgekit("stop", "demo")


def status(device: Project) -> str:
    return str(devices(device.broker, "tester").get("demo", {}).get("status", {}).get("state"))


def test_the_will_stays_unsaid_where_the_broker_is_behind(file_broker: MosquittoBroker) -> None:
    said: list[bytes] = []
    broker = BrokerConfig("127.0.0.1", file_broker.port)
    topic = topics.status_topic("other")
    watcher = MqttClient(
        broker, "watcher", subscriptions=[(topic, 1)], on_message=lambda m: said.append(m.payload)
    )
    watcher.connect()
    client = MqttClient(
        broker,
        "other",
        subscriptions=[],
        on_message=lambda _: None,
        will=wire.Outbound(topic, b"lost"),
    )
    client.connect()
    assert file_broker.process is not None
    file_broker.process.send_signal(signal.SIGSTOP)
    for number in range(5):
        client.publish(wire.Outbound(topic, b"%d" % number))
    threading.Timer(1.0, file_broker.process.send_signal, (signal.SIGCONT,)).start()
    client.close(flush_seconds=10)
    eventually(lambda: len(said) >= 5)
    watcher.close()
    assert said == [b"0", b"1", b"2", b"3", b"4"]


def answer(device: Project) -> str:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    with Requester(device.broker, "tester") as requester:
        final = list(requester.ask("demo", body))[-1]
    assert isinstance(final, Final)
    return final.text


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def supervisor(device: Project) -> int:
    return int((device.root() / "run" / "supervisor.pid").read_text())


def test_a_broker_that_is_down_is_a_clear_error_and_the_device_comes_back(
    device: Project, file_broker: MosquittoBroker
) -> None:
    file_broker.stop(kill=True)
    done = device.run("ask", "demo", "Hi")
    assert done.returncode == 1
    assert f"the broker at 127.0.0.1:{file_broker.port} does not answer" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
    file_broker.start()
    eventually(lambda: status(device) == "ready")
    assert "Paris" in answer(device)


def test_a_prompt_whose_requester_does_not_listen_is_dropped_and_not_computed(
    device: Project,
) -> None:
    states: queue.SimpleQueue[str] = queue.SimpleQueue()
    body = {"messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 900}
    asks = MqttClient(
        device.broker,
        "asks",
        subscriptions=[(topics.response_prefix("ghost") + "state", 1)],  # and nothing else of its
        on_message=lambda message: states.put(json.loads(message.payload)["state"]),
    )
    asks.connect()
    prompt = wire.Outbound(
        topics.request_topic("demo", "ghost"),
        json.dumps(body).encode(),
        response_topic=topics.response_prefix("ghost") + "answer",
        correlation=b"1",
        expiry_seconds=60,
        user=(("ek-id", "orphan"),),
    )
    query = wire.Outbound(
        topics.control_topic("demo", "ghost"),
        json.dumps({"kind": "query", "id": "orphan"}).encode(),
        response_topic=topics.response_prefix("ghost") + "state",
        correlation=b"2",
    )
    asks.publish(prompt).result(10)
    seen = []
    while "unknown" not in seen:  # the broker's word that nobody listens takes its time
        asks.publish(query).result(10)
        seen.append(states.get(timeout=10))
        assert len(seen) < 20, seen
        time.sleep(0.1)
    asks.close()


def test_a_killed_worker_costs_neither_the_prompt_nor_the_connection(device: Project) -> None:
    (agent,) = children(supervisor(device))
    (worker,) = children(agent)
    body = {"messages": [{"role": "user", "content": "Tell me a long story."}], "max_tokens": 120}
    with Requester(device.broker, "tester") as requester:
        replies = requester.ask("demo", body)
        next(replies)  # accepted
        next(replies)  # the first delta: it is decoding
        os.kill(worker, signal.SIGKILL)
        final = list(replies)[-1]
    assert isinstance(final, Final)
    assert final.completion["usage"]["completion_tokens"] == 120
    assert children(supervisor(device)) == [agent]


def test_a_killed_agent_that_comes_back_at_once_is_not_said_to_be_lost(device: Project) -> None:
    seen: list[str] = []

    def watch(message: wire.Inbound) -> None:
        seen.append(json.loads(message.payload)["state"])

    (agent,) = children(supervisor(device))
    watcher = MqttClient(
        device.broker, "watcher", subscriptions=[(topics.status_topic("demo"), 1)], on_message=watch
    )
    watcher.connect()
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: children(supervisor(device)) not in ([], [agent]))
    eventually(lambda: len(seen) > 1 and seen[-1] == "ready")
    assert "Paris" in answer(device)
    watcher.close()
    assert "lost" not in seen  # the Will waits


def test_an_agent_that_stays_away_is_lost_by_its_will(device: Project) -> None:
    (agent,) = children(supervisor(device))
    began = time.monotonic()
    os.kill(supervisor(device), signal.SIGKILL)  # the agent dies with it
    eventually(lambda: not alive(agent))
    assert status(device) == "ready"
    eventually(lambda: status(device) == "lost")
    assert time.monotonic() - began > WILL_DELAY_SECONDS - 1
    device.edgekit("push", "demo")
    assert "Paris" in answer(device)


def test_stop_drains_says_offline_and_leaves_no_process(device: Project) -> None:
    pid = supervisor(device)
    device.edgekit("stop", "demo")
    assert status(device) == "offline"
    assert not alive(pid)
    done = device.run("ask", "demo", "Hi")
    assert done.returncode == 1
    assert "its status is `offline`" in done.stderr
    device.edgekit("push", "demo")
    assert "Paris" in answer(device)
