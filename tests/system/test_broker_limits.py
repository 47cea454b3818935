"""The real agent and a real Mosquitto that takes little, and answers over Mosquitto's bridges."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.agent.release.root import Root
from edgekit.client import Accepted, Final, Requester, devices
from edgekit.core.config import AgentConfig, BrokerConfig
from edgekit.core.protocol import topics, wire
from tests import tools
from tests.conftest import make_project
from tests.contract.clients import client
from tests.tools import eventually

pytestmark = pytest.mark.timeout(180)

MAX_PACKET_BYTES = 1200  # below the metrics; above the card and a short answer
POOL = "sensors"
ACL = "topic readwrite #\ntopic deny edgekit/v1/dev/demo/card\n"
SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
LONG = SHORT | {"max_tokens": 300, "logit_bias": {"2": -100}}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tools.MosquittoBroker]:
    folder = tmp_path_factory.mktemp("little")
    (folder / "acl").write_text(ACL)
    (folder / "acl").chmod(0o600)
    config = f"max_packet_size {MAX_PACKET_BYTES}\nacl_file {folder / 'acl'}\n"
    with tools.mosquitto(folder, more_config=config) as started:
        yield started


@pytest.fixture(scope="module")
def agent(
    smollm2: Path, broker: tools.MosquittoBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Root]:
    project = make_project(tmp_path_factory.mktemp("limits") / "p", broker.port, smollm2)
    project.copy_root(smollm2)
    root = Root(project.root())
    config = AgentConfig("demo", BrokerConfig(port=broker.port), threads=1, slots=1, pools=[POOL])
    root.agent_config.write_bytes(msgspec.toml.encode(config))
    root.log_file.unlink(missing_ok=True)
    with root.log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "edgekit.agent", "serve", "--root", str(root.path)],
            env=root.environment(root.current.resolve()),
            stdout=log,
            stderr=log,
        )
    try:
        eventually(root.ready_file.exists, 90)
        yield root
    finally:
        process.terminate()
        process.wait(30)
    assert not root.broker_file.exists()


def test_a_final_that_is_too_long_is_an_error_and_the_rest_is_served(
    agent: Root, broker: tools.MosquittoBroker
) -> None:
    with Requester(BrokerConfig(port=broker.port), "alice") as requester:
        with pytest.raises(wire.ProtocolError) as caught:
            list(requester.ask("demo", LONG))
        assert caught.value.code == "payload_too_large"
        assert str(MAX_PACKET_BYTES) in caught.value.what
        assert isinstance(list(requester.ask("demo", SHORT))[-1], Final)
    log = agent.log_file.read_text()
    assert log.count("larger than the broker's largest packet") == 1
    eventually(lambda: topics.metrics_topic("demo") in agent.log_file.read_text())
    log = agent.log_file.read_text()
    assert log.count(topics.metrics_topic("demo")) == 1
    assert "connection lost" not in log


def test_a_prompt_that_the_broker_does_not_take_is_refused_by_name(
    agent: Root, broker: tools.MosquittoBroker
) -> None:
    body = {"messages": [{"role": "user", "content": "x" * MAX_PACKET_BYTES}]}
    with Requester(BrokerConfig(port=broker.port), "alice") as requester:
        with pytest.raises(wire.ProtocolError) as caught:
            list(requester.ask("demo", body))
        assert caught.value.code == "payload_too_large"
        assert "max_packet_size" in str(caught.value)


def test_a_topic_that_is_refused_is_said_once_and_shown(
    agent: Root, broker: tools.MosquittoBroker
) -> None:
    """The ACL keeps the card back; Mosquitto 2.0 answers 0x87 to MQTT 5."""
    card = topics.card_topic("demo")
    eventually(lambda: json.loads(agent.broker_file.read_bytes())["refused"])
    told = json.loads(agent.broker_file.read_bytes())
    assert told["refused"] == [{"topic": card, "code": 0x87, "reason": "Not authorized"}]
    assert (told["connected"], told["trouble"]) == (True, "")
    assert agent.log_file.read_text().count(f"refuses messages on {card}") == 1


# --- bridges ----------------------------------------------------------------------------------
@contextmanager
def bridged(folder: Path, to: int, version: str) -> Iterator[int]:
    """A broker for requesters, whose bridge leads to the device's."""
    folder.mkdir()
    config = (
        f"connection edge\naddress 127.0.0.1:{to}\n{version}\n"
        "topic edgekit/v1/req/# out 1\ntopic edgekit/v1/ctl/# out 0\n"
        "topic edgekit/v1/res/# in 1\ntopic edgekit/v1/dev/# in 1\n"
    )
    with tools.mosquitto(folder, more_config=config) as started:
        here = BrokerConfig(port=started.port)
        eventually(lambda: "demo" in devices(here, "alice"), what="the status comes over")
        yield started.port


def test_a_prompt_is_answered_over_a_bridge_of_mqtt_5(
    agent: Root, broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    with bridged(tmp_path / "b", broker.port, "bridge_protocol_version mqttv50") as port:
        assert devices(BrokerConfig(port=port), "alice")["demo"]["status"]["state"] == "ready"
        with Requester(BrokerConfig(port=port), "alice") as requester:
            for to in ("demo", f"pool:{POOL}"):
                first, *_, last = requester.ask(to, SHORT, prompt_id=f"over-{to[:4]}")
                assert isinstance(first, Accepted)
                assert first.device == "demo"
                assert isinstance(last, Final)


def test_a_bridge_of_mqtt_3_1_1_carries_envelopes_alone(
    agent: Root, broker: tools.MosquittoBroker, tmp_path: Path
) -> None:
    """It is Mosquitto's default. What needs properties arrives without an address."""
    here = topics.response_prefix("alice") + "bridge"
    envelope = {"v": 1, "id": "e1", "reply_to": here, "deadline_ms": 60_000, "body": SHORT}
    prompt = topics.request_topic("demo", "alice")
    with (
        bridged(tmp_path / "b", broker.port, "") as port,
        client(port, here) as plain,
    ):
        plain.publish(
            prompt,
            json.dumps(SHORT).encode(),
            response_topic=here,
            correlation=b"c",
            expiry_seconds=60,
        )
        assert plain.receives_nothing()
        plain.publish(prompt, json.dumps(envelope).encode())
        kinds = [json.loads(plain.receive().payload)["kind"]]
        while kinds[-1] != "final":
            kinds.append(json.loads(plain.receive().payload)["kind"])
        assert kinds[0] == "accepted"
