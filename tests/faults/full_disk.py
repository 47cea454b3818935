"""An agent whose disk fills up and has room again; prints what was seen as one JSON object.

python full_disk.py ROOT PORT    (ROOT lies on a disk that may be filled)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.release.root import Root
from edgekit.client import Delta, Final, Requester
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient

WAIT_SECONDS = 90.0
QUIET_SECONDS = 3.0
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "max_tokens": 900,  # it must still run when the disk is full
    "logit_bias": {"2": -100},  # nor end by itself
}


def eventually(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def fill(ballast: Path) -> None:
    """Take what room there is, to the last byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"b" * size)
            except OSError:
                continue


def started(root: Root) -> subprocess.Popen[bytes]:
    """The agent of the device, without a supervisor."""
    return subprocess.Popen(
        [sys.executable, "-S", "-P", "-m", "edgekit.agent", "serve", "--root", str(root.path)],
        env=root.environment(root.current.resolve()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    root = Root(Path(sys.argv[1]))
    broker = BrokerConfig("127.0.0.1", int(sys.argv[2]))
    root.agent_config.write_bytes(msgspec.toml.encode(AgentConfig("demo", broker)))
    states: list[str] = []
    active: list[int] = []
    finals: list[float] = []

    def watch(message: wire.Inbound) -> None:
        if message.topic == topics.status_topic("demo"):
            status = json.loads(message.payload)
            active.append(status.get("active", 0))
            states.append(status["state"])
        elif message.property("ek-kind") == "final":
            finals.append(time.monotonic())

    filters = [(topics.status_topic("demo"), 1), (topics.response_prefix("tester") + "#", 1)]
    watcher = MqttClient(broker, "watcher", subscriptions=filters, on_message=watch)
    watcher.connect()
    agent = started(root)
    seen: dict[str, Any] = {}
    ballast = root.path / "ballast"
    try:
        eventually(root.ready_file.exists)
        with Requester(broker, "tester") as requester:
            running = requester.ask("demo", STORY, expiry_seconds=300)
            while not isinstance(next(running), Delta):
                """It is accepted, and runs."""
            fill(ballast)
            try:
                list(requester.ask("demo", QUESTION))
                seen["refused"] = None
            except wire.ProtocolError as error:
                seen["refused"] = error.code
            eventually(lambda: "read_only" in states)
            seen["read_only"] = True
            assert not finals, "the prompt ended before the disk was full"
            eventually(lambda: not active[-1])
            time.sleep(QUIET_SECONDS)
            ballast.unlink()
            room_at = time.monotonic()
            for reply in running:
                if isinstance(reply, Final):
                    final = reply
            eventually(lambda: finals)
            seen["final_before_there_was_room"] = min(finals) < room_at
            seen["running_prompt_tokens"] = final.completion["usage"]["completion_tokens"]
            eventually(lambda: states[-1] in ("ready", "busy"))
            answer = list(requester.ask("demo", QUESTION))[-1]
            assert isinstance(answer, Final)
            seen["answer_when_there_was_room_again"] = answer.text
        seen["same_process"] = agent.poll() is None
        seen["states"] = states
    finally:
        agent.terminate()
        agent.wait(30)
        watcher.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
