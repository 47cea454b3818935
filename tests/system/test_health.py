"""What the real agent tells the service manager, and what it does when it is not well."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgekit.agent.release.root import Root
from edgekit.client import Accepted, Final, Requester, devices
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import make_project
from tests.contract.document import Document

pytestmark = pytest.mark.timeout(180)

TESTS = Path(__file__).parents[1]
AILING = TESTS / "faults/ailing_agent.py"
NO_WRITE_EXECUTE = TESTS / "faults/no_write_execute.py"
WATCHDOG_SECONDS = 1.0
SILENCE_SECONDS = 1.0
WAIT_SECONDS = 60.0
QUESTION: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}]
}
STORY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 900,
    "logit_bias": {"2": -100},  # it does not end by itself
}


@dataclass
class Manager:
    """systemd's end of the socket."""

    address: str
    sock: socket.socket = field(init=False)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.address.replace("@", "\0", 1))

    def hear(self, seconds: float) -> str:
        """What is said next, or nothing within so many seconds."""
        self.sock.settimeout(max(seconds, 1e-3))
        try:
            self.said.append(self.sock.recv(4096).decode())
        except TimeoutError:
            return ""
        return self.said[-1]

    def until(self, condition: Callable[[str], bool]) -> str:
        """The first line from now on that is meant."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            line = self.hear(0.5)
            if line and condition(line):
                return line
        pytest.fail(f"not said within {WAIT_SECONDS:g} s, but: {self.said}")

    def pings(self, seconds: float) -> int:
        """How often the watchdog is told of progress, from now on."""
        deadline, count = time.monotonic() + seconds, 0
        while (left := deadline - time.monotonic()) > 0:
            count += self.hear(left) == "WATCHDOG=1"
        return count


@dataclass
class Box:
    """A device with an active release, which does not run."""

    root: Root
    broker: tools.MosquittoBroker

    def configure(self, **more: Any) -> None:
        config = AgentConfig("demo", BrokerConfig(port=self.broker.port), threads=1, slots=1)
        config = msgspec.structs.replace(config, drain_seconds=0.5, **more)
        self.root.agent_config.write_bytes(msgspec.toml.encode(config))

    @contextmanager
    def agent(
        self, command: list[str], environment: dict[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Its process for the length of a block, in the environment of a release and some more."""
        self.root.ready_file.unlink(missing_ok=True)
        with self.root.log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-P", *command, "--root", str(self.root.path)],
                env=self.root.environment(self.root.current.resolve()) | environment,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)

    def answers(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.root.ready_file.exists():
            assert time.monotonic() < deadline, self.root.log_file.read_text()[-2000:]
            time.sleep(0.05)

    def state(self, wanted: str) -> dict[str, Any]:
        """The status, once its state is the wanted one."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = devices(BrokerConfig(port=self.broker.port), "tester").get("demo", {})
            status: dict[str, Any] = found.get("status", {})
            if status.get("state") == wanted:
                return status
            assert time.monotonic() < deadline, status

    @property
    def requester(self) -> Requester:
        return Requester(BrokerConfig(port=self.broker.port), "tester")


@pytest.fixture(scope="module")
def box(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("health")
    with tools.mosquitto(folder) as broker:
        project = make_project(folder / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        yield Box(Root(project.root()), broker)


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def ailing(thermal: Path) -> list[str]:
    return [str(AILING), str(SILENCE_SECONDS), str(thermal), "serve"]


def test_ready_is_said_once_prompts_are_answered_and_not_before_the_broker_is_there(
    box: Box,
) -> None:
    box.configure()
    manager = Manager("@edgekit-test-" + os.urandom(8).hex())
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": str(round(WATCHDOG_SECONDS * 1e6)),
        "WATCHDOG_PID": "1",  # the supervisor's, which does not pass it on
    }
    box.broker.stop()
    try:
        with box.agent(["-m", "edgekit.agent", "boot"], environment) as supervisor:
            line = manager.until(lambda line: "no connection" in line)
            assert line.startswith("STATUS=ready; no connection to the broker at 127.0.0.1:")
            assert not [line for line in manager.said if "READY" in line]
            box.broker.start()
            manager.until(lambda line: line == "READY=1")
            assert box.root.ready_file.exists()
            assert "STATUS=loading the model" in manager.said
            manager.until(lambda line: line == "STATUS=ready")
            assert manager.pings(2 * WATCHDOG_SECONDS) >= 3
            with box.requester as requester:
                assert isinstance(list(requester.ask("demo", QUESTION))[-1], Final)
            manager.until(lambda line: "tokens/s" in line)
            worker = child(child(supervisor.pid))
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{worker}/environ").read_bytes()
            supervisor.terminate()
            manager.until(lambda line: line == "STOPPING=1")
        assert manager.said.count("READY=1") == 1
    finally:
        if box.broker.process is None:
            box.broker.start()


def test_a_stuck_worker_stops_the_watchdog_and_one_that_goes_on_starts_it_again(
    box: Box, tmp_path: Path
) -> None:
    box.configure()
    manager = Manager(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with box.agent(ailing(tmp_path), environment) as agent:
        manager.until(lambda line: line == "READY=1")
        worker = child(agent.pid)
        try:
            os.kill(worker, signal.SIGSTOP)
            assert manager.pings(SILENCE_SECONDS + 1.0) >= 3, "nothing is owed: it is well"
            with box.requester as requester:
                asking = requester.ask("demo", QUESTION, expiry_seconds=60)
                assert isinstance(next(asking), Accepted)
                manager.until(lambda line: line.startswith("STATUS=stuck: the model process"))
                assert manager.pings(2 * WATCHDOG_SECONDS) == 0
                os.kill(worker, signal.SIGCONT)
                assert isinstance(list(asking)[-1], Final)
                manager.until(lambda line: line == "WATCHDOG=1")
        finally:
            os.kill(worker, signal.SIGCONT)


def test_a_loop_that_fails_ends_the_agent_which_its_supervisor_sees(
    box: Box, tmp_path: Path
) -> None:
    box.configure()
    manager = Manager(str(tmp_path / "notify"))
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    with box.agent(ailing(tmp_path), environment) as agent:
        manager.until(lambda line: line == "READY=1")
        agent.send_signal(signal.SIGUSR1)
        assert agent.wait(10) > 0


def test_a_hot_device_says_so_refuses_and_serves_again_when_it_is_cooler(
    box: Box, tmp_path: Path
) -> None:
    """Its sensor is a file that the test writes."""
    box.configure()
    sensor = tmp_path / "thermal_zone0" / "temp"
    sensor.parent.mkdir()
    sensor.write_text("41000\n")
    with box.agent(ailing(tmp_path), {}), box.requester as requester:
        box.answers()
        assert box.state("ready")["temp_c"] == 41
        sensor.write_text("97000\n")
        assert box.state("degraded")["reason"] == "thermal"
        with pytest.raises(wire.ProtocolError) as refused:
            list(requester.ask("demo", QUESTION))
        assert refused.value.code == "thermal"
        assert (refused.value.retryable, refused.value.retry_after_ms) == (True, 30_000)
        sensor.write_text("60000\n")
        assert box.state("ready")["temp_c"] == 60
        assert isinstance(list(requester.ask("demo", QUESTION))[-1], Final)


def test_prometheus_and_the_metrics_topic_tell_of_an_answer(box: Box, tmp_path: Path) -> None:
    port = tools.free_port()
    box.configure(metrics_port=port)
    heard: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
    topic = topics.metrics_topic("demo")
    watcher = MqttClient(
        BrokerConfig(port=box.broker.port),
        "watcher",
        subscriptions=[(topic, 1)],
        on_message=heard.put,
    )
    watcher.connect()
    try:
        with box.agent(ailing(tmp_path), {}), box.requester as requester:
            box.answers()
            final = list(requester.ask("demo", QUESTION))[-1]
            assert isinstance(final, Final)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                text = page.read().decode()
            while True:
                message = heard.get(timeout=10)
                body = json.loads(message.payload)
                if "gen_ai_server_request_duration_seconds" in body:
                    break
    finally:
        watcher.close()
    samples = {
        (sample.name, sample.labels.get("gen_ai_token_type", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    usage = final.completion["usage"]
    assert samples["gen_ai_client_token_usage_sum", "input"] == usage["prompt_tokens"]
    assert samples["gen_ai_client_token_usage_sum", "output"] == usage["completion_tokens"]
    (duration,) = body["gen_ai_server_request_duration_seconds"]
    first = samples["gen_ai_server_time_to_first_token_seconds_sum", ""]
    assert 0 < first < duration["sum"] < 60
    assert samples["edgekit_mem_free_bytes", ""] > 0
    assert (message.qos, message.retain) == (0, False)
    assert Document().check(message) == "metrics"
    for said in (text, message.payload.decode()):
        assert "capital" not in said
        assert "Paris" not in said
        assert "tester" not in said


def test_the_agent_answers_where_no_memory_is_writable_and_executable(box: Box) -> None:
    """The unit's MemoryDenyWriteExecute: onnxruntime and onnxruntime-genai work with it."""
    box.configure()
    agent = [str(NO_WRITE_EXECUTE), sys.executable, "-S", "-P", "-m", "edgekit.agent", "serve"]
    with box.agent(agent, {}) as process:
        box.answers()
        with box.requester as requester:
            final = list(requester.ask("demo", QUESTION))[-1]
        assert isinstance(final, Final)
        assert "Paris" in final.text
        for pid in (process.pid, child(process.pid)):
            assert "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()
