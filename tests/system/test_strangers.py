"""Clients that know nothing of edgekit talk to a real device: mosquitto's own request/response
tool, paho as MQTT 3.1.1, MQTT.js over WebSocket, aiomqtt, and gmqtt in CBOR."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import aiomqtt
import cbor2
import gmqtt
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests import javascript, tools
from tests.conftest import Broker, Project

pytestmark = pytest.mark.timeout(120)


def mosquitto_rr(device: Project, message: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Publish one prompt and print the first reply."""
    return subprocess.run(
        [
            *(tools.find("mosquitto_rr"), "-V", "5", "-h", "127.0.0.1", "-p", str(device.port)),
            *("-q", "1", "-W", "60", "-t", "edgekit/v1/req/dev/demo/stranger"),
            *("-e", "edgekit/v1/res/stranger/1", "-m", message),
            *("-D", "publish", "correlation-data", "one"),
            *("-D", "publish", "message-expiry-interval", "60", *more),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


PROMPT = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}]})
FINAL_ONLY = ("-D", "publish", "user-property", "ek-want", "final")


def test_mosquitto_rr_gets_one_chat_completion(device: Project) -> None:
    done = mosquitto_rr(device, PROMPT, *FINAL_ONLY)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["object"] == "chat.completion"
    assert "Paris" in body["choices"][0]["message"]["content"]


def test_a_body_that_is_not_json_gets_an_error_and_the_device_goes_on(device: Project) -> None:
    done = mosquitto_rr(device, "tell me a joke", *FINAL_ONLY)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_request"
    assert "JSON" in error["message"]
    assert "Paris" in mosquitto_rr(device, PROMPT, *FINAL_ONLY).stdout


def test_retained_garbage_of_a_stranger_is_no_device(device: Project) -> None:
    topic = "edgekit/v1/dev/not-an-agent/status"
    publish = [tools.find("mosquitto_pub"), "-V", "5", "-p", str(device.port), "-r", "-t", topic]
    subprocess.run([*publish, "-m", "[not json"], check=True, timeout=30)
    try:
        done = device.run("devices")
    finally:
        subprocess.run([*publish, "-n"], check=True, timeout=30)
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert "not-an-agent" not in done.stdout
    assert "Traceback" not in done.stderr


def test_an_answer_goes_nowhere_but_below_the_requester_s_own_name(device: Project) -> None:
    done = subprocess.run(
        [
            *(tools.find("mosquitto_rr"), "-V", "5", "-h", "127.0.0.1", "-p", str(device.port)),
            *("-q", "1", "-W", "3", "-t", "edgekit/v1/req/dev/demo/stranger"),
            *("-e", "edgekit/v1/res/victim/1", "-m", PROMPT, *FINAL_ONLY),
            *("-D", "publish", "correlation-data", "one"),
            *("-D", "publish", "message-expiry-interval", "60"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == ""


# --- clients of MQTT 3.1.1: an envelope -------------------------------------------------------
on_mosquitto = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
HELLO = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
ENDLESS = HELLO | {"logit_bias": {"2": -100}, "max_tokens": 800}  # token 2 ends a turn
SECONDS = 60.0


class Plain:
    """paho as MQTT 3.1.1, with the envelope of docs/protocol."""

    def __init__(self, port: int, requester: str) -> None:
        self.requester = requester
        self.replies: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.reply_to = f"edgekit/v1/res/{requester}/{uuid.uuid4().hex}"
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
        self.client.on_message = lambda _client, _data, message: self.replies.put(
            json.loads(message.payload)
        )
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(self.reply_to, 1)
        assert subscribed.wait(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def ask(self, body: object, prompt_id: str, **changes: Any) -> None:
        envelope = {"v": 1, "id": prompt_id, "reply_to": self.reply_to, "deadline_ms": 60_000}
        topic = f"edgekit/v1/req/dev/demo/{self.requester}"
        self.client.publish(topic, json.dumps(envelope | {"body": body} | changes), 1)

    def control(self, kind: str, prompt_id: str) -> None:
        envelope = {"v": 1, "reply_to": self.reply_to, "kind": kind, "id": prompt_id}
        self.client.publish(f"edgekit/v1/ctl/dev/demo/{self.requester}", json.dumps(envelope))

    def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Replies to the first of these kinds."""
        came = [self.replies.get(timeout=SECONDS)]
        while came[-1]["kind"] not in kinds:
            came.append(self.replies.get(timeout=SECONDS))
        return came


@pytest.fixture
def plain(device: Project) -> Iterator[Plain]:
    client = Plain(device.port, f"plain-{uuid.uuid4().hex[:8]}")
    yield client
    client.close()


def check_stream(came: list[dict[str, Any]], finish_reason: str = "stop") -> None:
    """Accepted, deltas, and a final that repeats their text."""
    kinds = [reply["kind"] for reply in came]
    assert kinds == ["accepted", *["delta"] * (len(came) - 2), "final"]
    assert len(came) > 2, "no delta"
    text = "".join(r["payload"]["choices"][0]["delta"]["content"] for r in came[1:-1])
    (choice,) = came[-1]["payload"]["choices"]
    assert choice["finish_reason"] == finish_reason
    assert choice["message"]["content"].startswith(text)
    if finish_reason == "stop":
        assert "Paris" in text


@on_mosquitto
def test_paho_over_3_1_1_streams_an_answer(plain: Plain) -> None:
    plain.ask(HELLO, "p1")
    came = plain.until("final", "error")
    check_stream(came)
    assert [reply["seq"] for reply in came[1:-1]] == list(range(len(came) - 2))
    assert {(r["v"], r["id"], r["dev"]) for r in came} == {(1, "p1", "demo")}
    assert came[-1]["status"] == 200
    plain.ask(HELLO, "p1")  # again: the stored one
    assert plain.until("final", "error") == came[-1:]


@on_mosquitto
def test_paho_over_3_1_1_cancels_while_it_streams(plain: Plain) -> None:
    plain.ask(ENDLESS, "p1")
    came = plain.until("delta", "final", "error")
    plain.control("query", "p1")
    came += plain.until("state", "final", "error")
    assert came.pop()["payload"]["state"] == "running"
    plain.control("cancel", "p1")
    came += plain.until("final", "error")
    check_stream(came, "cancelled")
    assert came[-1]["status"] == 499
    assert came[-1]["payload"]["usage"]["completion_tokens"] < 800


@on_mosquitto
def test_paho_over_3_1_1_gets_errors_and_no_answer_from_a_foreign_address(plain: Plain) -> None:
    plain.ask(HELLO, "p1", reply_to="edgekit/v1/res/victim/1")
    plain.ask(HELLO, "p2", v=2)
    plain.ask(HELLO | {"n": 2}, "p3")
    errors = [plain.until("error", "accepted").pop() for _ in range(2)]
    assert [(e["id"], e["status"], e["payload"]["error"]["code"]) for e in errors] == [
        ("p2", 505, "unsupported_version"),
        ("p3", 400, "unsupported_parameter"),
    ]
    plain.control("query", "p1")
    assert plain.until("state").pop()["payload"]["state"] == "unknown"


# --- MQTT.js over WebSocket -------------------------------------------------------------------
def mqttjs(broker: Broker, version: str, body: object, *more: str) -> list[dict[str, Any]]:
    """The replies that MQTT.js got, by its own account."""
    assert isinstance(broker, tools.MosquittoBroker)
    script = javascript.FOLDER / "client.cjs"
    url = f"ws://127.0.0.1:{broker.websocket_port}"
    done = subprocess.run(
        [tools.find("node"), script, url, version, json.dumps(body), *more],
        env=os.environ | {"NODE_PATH": str(javascript.modules() / "node_modules")},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@on_mosquitto
@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.usefixtures("device")
def test_mqtt_js_over_websocket_streams_and_cancels(broker: Broker, version: str) -> None:
    check_stream(mqttjs(broker, version, HELLO))
    check_stream(mqttjs(broker, version, ENDLESS, "cancel"), "cancelled")
    (error,) = mqttjs(broker, version, HELLO | {"n": 2})
    assert error["payload"]["error"]["param"] == "n"


# --- asyncio, MQTT 5 --------------------------------------------------------------------------
def test_aiomqtt_streams_an_answer_cancels_another_and_reads_an_error(device: Project) -> None:
    async def converse() -> list[list[dict[str, Any]]]:
        version = aiomqtt.ProtocolVersion.V5
        async with aiomqtt.Client("127.0.0.1", device.port, protocol=version) as client:
            await client.subscribe("edgekit/v1/res/aio/#", qos=1)
            return [
                await ask(client, "a1", HELLO),
                await ask(client, "a2", ENDLESS, cancel=True),
                await ask(client, "a3", HELLO | {"n": 2}),
            ]

    async def ask(
        client: aiomqtt.Client, prompt_id: str, body: object, *, cancel: bool = False
    ) -> list[dict[str, Any]]:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
        properties.ResponseTopic = f"edgekit/v1/res/aio/{prompt_id}"
        properties.CorrelationData = prompt_id.encode()
        properties.MessageExpiryInterval = 60
        topic, data = "edgekit/v1/req/dev/demo/aio", json.dumps(body)
        await client.publish(topic, data, qos=1, properties=properties)
        came: list[dict[str, Any]] = []
        async for message in client.messages:
            kind = dict(message.properties.UserProperty)["ek-kind"]  # type: ignore[union-attr]  # an MQTT 5 message has them
            assert isinstance(message.payload, bytes)
            came.append({"kind": kind, "payload": json.loads(message.payload)})
            if cancel and kind == "delta" and came[-1]["payload"]["seq"] == 0:
                control = json.dumps({"kind": "cancel", "id": prompt_id.encode().hex()})
                await client.publish("edgekit/v1/ctl/dev/demo/aio", control)
            if kind in ("final", "error"):
                break
        return came

    whole, cancelled, refused = asyncio.run(asyncio.wait_for(converse(), SECONDS))
    check_stream(whole)
    check_stream(cancelled, "cancelled")
    assert refused[0]["payload"]["error"]["param"] == "n"


def test_gmqtt_speaks_cbor(device: Project) -> None:
    async def converse() -> list[list[dict[str, Any]]]:
        client = gmqtt.Client(f"gmqtt-{uuid.uuid4().hex}")
        inbox: asyncio.Queue[tuple[bytes, dict[str, Any]]] = asyncio.Queue()
        subscribed = asyncio.Event()
        client.on_message = lambda _client, _topic, payload, _qos, properties: inbox.put_nowait(
            (payload, properties)
        )
        client.on_subscribe = lambda *_: subscribed.set()
        await client.connect("127.0.0.1", device.port)
        client.subscribe("edgekit/v1/res/g/#", qos=1)
        await subscribed.wait()
        conversations = [
            await ask(client, inbox, "g1", HELLO),
            await ask(client, inbox, "g2", ENDLESS, cancel=True),
            await ask(client, inbox, "g3", HELLO | {"n": 2}),
        ]
        await client.disconnect()
        return conversations

    async def ask(
        client: Any, inbox: Any, prompt_id: str, body: object, *, cancel: bool = False
    ) -> list[dict[str, Any]]:
        client.publish(
            "edgekit/v1/req/dev/demo/g",
            cbor2.dumps(body),
            qos=1,
            response_topic=f"edgekit/v1/res/g/{prompt_id}",
            correlation_data=prompt_id.encode(),
            message_expiry_interval=60,
            content_type="application/cbor",
            user_property=[("ek-id", prompt_id)],
        )
        came: list[dict[str, Any]] = []
        while not came or came[-1]["kind"] not in ("final", "error"):
            payload, properties = await inbox.get()
            assert properties["content_type"] == ["application/cbor"]
            kind = dict(properties["user_property"])["ek-kind"]
            came.append({"kind": kind, "payload": cbor2.loads(payload)})
            if cancel and kind == "delta" and came[-1]["payload"]["seq"] == 0:
                control = cbor2.dumps({"kind": "cancel", "id": prompt_id})
                to = {"content_type": "application/cbor"}
                client.publish("edgekit/v1/ctl/dev/demo/g", control, qos=0, **to)
        return came

    whole, cancelled, refused = asyncio.run(asyncio.wait_for(converse(), SECONDS))
    check_stream(whole)
    check_stream(cancelled, "cancelled")
    assert refused[0]["payload"]["error"]["param"] == "n"
