"""A push and a rollback while prompts wait: the next release answers them, over real Mosquitto."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests import tools
from tests.conftest import PACK, Project, make_project

pytestmark = pytest.mark.timeout(600)
ASKED = 5  # one runs, four wait: as many as one requester may have
LONG = {"2": -100}  # the end of a message never comes


@pytest.fixture
def device(smollm2: Path, tmp_path: Path) -> Iterator[Project]:
    with tools.mosquitto(tmp_path) as broker:
        project = make_project(tmp_path / "project", broker.port, smollm2)
        project.copy_root(smollm2)
        with (project.folder / "fleet.toml").open("a", encoding="utf-8") as fleet:
            fleet.write("slots = 1\ndrain_seconds = 0.5\n")
        project.edgekit("push", "demo")
        yield project
        project.edgekit("stop", "demo")


def body(text: str, tokens: int) -> bytes:
    messages = [{"role": "user", "content": text}]
    asked = {"messages": messages, "max_tokens": tokens, "temperature": 0}
    return json.dumps(asked | ({"logit_bias": LONG} if tokens > 100 else {})).encode()


def test_prompts_that_wait_during_a_push_are_answered_by_the_next_release(
    device: Project, smollm2: Path
) -> None:
    replies: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
    asks = MqttClient(
        device.broker,
        "asks",
        subscriptions=[(topics.response_prefix("asks") + "r", 1)],
        on_message=replies.put,
    )
    asks.connect()
    said: dict[str, list[str]] = {}

    def read() -> dict[str, list[str]]:
        while not replies.empty():
            user = dict(replies.get().user)
            said.setdefault(user["ek-id"], []).append(user["ek-kind"])
        return said

    def send(name: str, tokens: int) -> None:
        prompt = wire.Outbound(
            topics.request_topic("demo", "asks"),
            body("Name a colour.", tokens),
            response_topic=topics.response_prefix("asks") + "r",
            correlation=name.encode(),
            expiry_seconds=300,
            user=(("ek-id", name), ("ek-want", "final")),
        )
        asks.publish(prompt).result(30)

    changes = (("push", "demo", "--bundle", "again:2"), ("rollback", "demo"))
    device.edgekit("pack", str(smollm2), "--name", "again", "--version", "2", *PACK)
    for number, change in enumerate(changes):
        names = [f"{number}-{index}" for index in range(ASKED)]
        send(names[0], 300)  # it runs longer than the drain
        for name in names[1:]:
            send(name, 4)
        device.edgekit(*change)
        deadline = time.monotonic() + 240.0
        missing = set(names)
        while missing:
            missing -= set(read())
            assert time.monotonic() < deadline, f"no answer to {missing}"
            time.sleep(0.1)
        assert {name: said[name] for name in names} == {name: ["final"] for name in names}
    asks.close()
