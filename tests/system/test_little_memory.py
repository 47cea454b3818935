"""A device whose memory does not hold the bundle's context: the real agent, told a false count."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.client import Final, Requester, devices
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol.wire import ProtocolError
from tests import tools
from tests.conftest import make_project

pytestmark = pytest.mark.timeout(180)

LITTLE_MEMORY = Path(__file__).parents[1] / "faults" / "little_memory.py"
WAIT_SECONDS = 60.0
TOKEN_BYTES = 46080  # keys and values of SmolLM2
FOR_512 = 40_000_000  # holds a slot of 512 tokens, not one of the bundle's 1024
FOR_NONE = 20_000_000


@dataclass
class Box:
    """A device with an active release, which does not run."""

    root: Root
    broker: BrokerConfig

    @contextmanager
    def agent(self, free_bytes: int, **config: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Its process, which believes that so much memory is free."""
        values = AgentConfig("demo", self.broker, threads=1, drain_seconds=0.5, **config)
        self.root.agent_config.write_bytes(msgspec.toml.encode(values))
        self.root.ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-S", "-P", str(LITTLE_MEMORY), str(free_bytes), "serve"]
        with self.root.log_file.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--root", str(self.root.path)],
                env=self.root.environment(self.root.current.resolve()),
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    @property
    def log(self) -> str:
        return self.root.log_file.read_text()

    def ask(self, words: int, **more: Any) -> Final:
        body = {"messages": [{"role": "user", "content": "yes " * words}], **more}
        with Requester(self.broker, "tester") as requester:
            last = list(requester.ask("demo", body))[-1]
        assert isinstance(last, Final)
        return last

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.05)


@pytest.fixture(scope="module")
def box(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("little")
    with tools.mosquitto(folder) as broker:
        project = make_project(folder / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        yield Box(Root(project.root()), BrokerConfig(port=broker.port))


@pytest.mark.parametrize("batching", [False, True])
def test_the_context_steps_down_the_card_says_so_and_a_longer_prompt_is_refused(
    box: Box, batching: bool
) -> None:
    assert TOKEN_BYTES * 512 < FOR_512 < TOKEN_BYTES * 1024
    with box.agent(FOR_512, batching=batching):
        box.wait_for(box.root.ready_file.exists)
        card = devices(box.broker, "tester")["demo"]["card"]
        assert (card["context_length"], card["max_answer_tokens"], card["slots"]) == (512, 512, 1)
        ready = json.loads(box.root.ready_file.read_bytes())
        assert ready["model"]["context_length"] == 512
        answered = box.ask(300, max_tokens=4)
        assert answered.completion["usage"]["prompt_tokens"] > 300
        with pytest.raises(ProtocolError, match="the context of 512 leaves no room") as refused:
            box.ask(700)  # the bundle's context would hold it
        assert refused.value.code == "context_length_exceeded"
    lines = [line for line in box.log.splitlines() if "the context is lowered" in line]
    assert len(lines) == 1
    assert "from 1024 to 512 tokens, in one slot: 40 MB are free" in lines[0]


def test_below_the_shortest_the_agent_ends_and_says_why(box: Box) -> None:
    with box.agent(FOR_NONE) as process:
        assert process.wait(WAIT_SECONDS) == 1
    assert "this device has too little free memory to answer" in box.log
    assert "20 MB are free once the model is loaded" in box.log
    assert "the model process ended 2 times" in box.log
