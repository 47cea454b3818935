"""A device among strangers: Mosquitto with an ACL, a real agent, and clients that keep no rules.

Accounts are names without a password: who may do what is the ACL's to say. `admin` may everything,
as on a broker without one.
"""

from __future__ import annotations

import itertools
import json
import queue
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgekit.agent.release.root import Root
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.hardened import UnbreakableClient
from edgekit.mqtt.packet import read_publish
from tests import tools
from tests.conftest import Project, make_project
from tests.harness.packets import connect, publish, string

WAIT_SECONDS = 20.0
FLOOD_PER_SECOND = 100
ADMIN, AGENT = "admin", "agent"
ACL = f"""
user {ADMIN}
topic readwrite #

user {AGENT}
topic readwrite #

pattern write edgekit/v1/req/dev/+/%u
pattern write edgekit/v1/ctl/dev/+/%u
pattern read edgekit/v1/res/%u/#
pattern read edgekit/v1/dev/#
"""
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "Name a colour."}]}
SHORT |= {"max_tokens": 24, "temperature": 0, "logit_bias": {"2": -100}}  # always 24 tokens
ROUNDS = 3
DRAIN_SECONDS = 1.5  # for what a flood leaves in the queue
EXPIRY_SECONDS = 60


@dataclass(frozen=True)
class Heard:
    """A message that somebody received."""

    topic: str
    payload: bytes
    user: dict[str, str]
    at: float

    @property
    def kind(self) -> str:
        """`ek-kind`, of a reply."""
        return self.user.get("ek-kind", "")

    @property
    def json(self) -> Any:
        """The payload."""
        return json.loads(self.payload)


class Stranger:
    """Somebody with an account, and paho."""

    def __init__(self, port: int, name: str, *filters: str) -> None:
        self.name = name
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self.codes: queue.SimpleQueue[int] = queue.SimpleQueue()
        ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
        client = UnbreakableClient(  # paho alone would not outlive what others publish here
            CallbackAPIVersion.VERSION2, f"{name}-{uuid.uuid4().hex[:8]}", protocol=paho.MQTTv5
        )
        client.username_pw_set(name)
        client.on_publish_packet = self._publish_packet
        client.on_publish = lambda _c, _d, _mid, code, _p: self.codes.put(int(code.value))
        client.on_connect = lambda *_: ready.put(True)
        client.on_subscribe = lambda *_: ready.put(True)
        client.connect("127.0.0.1", port)
        client.loop_start()
        ready.get(timeout=WAIT_SECONDS)
        self.client = client
        if filters:
            client.subscribe([(f, SubscribeOptions(qos=1)) for f in filters])
            ready.get(timeout=WAIT_SECONDS)

    def _publish_packet(self, command: int, body: bytes) -> int:
        message = read_publish(command, body, 0)
        self.heard.put(_heard(message))
        return int(message.token[1])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, **more: Any) -> int:
        """Publish; the PUBACK's reason code."""
        retain = more.pop("retain", False)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
        for name, value in more.items():
            setattr(properties, name, value)
        self.client.publish(topic, payload, qos, retain, properties)
        return self.codes.get(timeout=WAIT_SECONDS)

    def ask(self, body: object, prompt_id: str = "", **more: Any) -> str:
        """Publish a prompt, as it should be but for what is given; its ek-id."""
        prompt_id = prompt_id or uuid.uuid4().hex
        values: dict[str, Any] = {
            "ResponseTopic": f"edgekit/v1/res/{self.name}/1",
            "CorrelationData": prompt_id.encode()[:64],
            "MessageExpiryInterval": 60,
            "UserProperty": [("ek-id", prompt_id)],
        }
        topic = more.pop("topic", topics.request_topic("demo", self.name))
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.publish(topic, payload, **(values | more))
        return prompt_id

    def reply(self, prompt_id: str, *kinds: str) -> Heard:
        """The next reply of these kinds (final or error) to a prompt; others are dropped."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            heard = self.heard.get(timeout=max(0.0, deadline - time.monotonic()))
            if heard.user.get("ek-id") == prompt_id and heard.kind in (kinds or ("final", "error")):
                return heard

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()


def _heard(message: wire.Inbound) -> Heard:
    return Heard(message.topic, message.payload, dict(message.user), time.monotonic())


@dataclass
class Attacked:
    """The device `demo`, its broker, and who looks on."""

    project: Project
    broker: tools.MosquittoBroker
    onlooker: Stranger  # hears every message
    strangers: list[Stranger] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)  # until the device was last settled

    @property
    def root(self) -> Root:
        """ROOT of the device."""
        return Root(self.project.root())

    @property
    def pid(self) -> int:
        """The agent's process."""
        return int(json.loads(self.root.ready_file.read_bytes())["pid"])

    def stranger(self, name: str, *filters: str) -> Stranger:
        """Somebody who connects and subscribes: by default to the replies to itself."""
        filters = filters or (f"edgekit/v1/res/{name}/#",)
        self.strangers.append(Stranger(self.broker.port, name, *filters))
        return self.strangers[-1]

    def raw(self) -> socket.socket:
        """A connection to the broker."""
        return socket.create_connection(("127.0.0.1", self.broker.port), WAIT_SECONDS)

    def wait_for_another(self, pid: int) -> None:
        """Until an agent that is not this process is ready."""
        deadline = time.monotonic() + 2 * WAIT_SECONDS
        while not self.root.ready_file.exists() or self.pid == pid:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def settle(self) -> None:
        """Everything that was published before has been handled, and the device answers still."""
        someone = self.stranger("someone")
        asked = someone.ask(
            {"kind": "query", "id": "-"}, "-", topic="edgekit/v1/ctl/dev/demo/someone"
        )
        assert someone.reply(asked, "state").json == {"state": "unknown"}
        deadline = time.monotonic() + WAIT_SECONDS
        final = someone.reply(someone.ask(HELLO))
        while final.kind == "error" and final.json["error"]["code"] == "queue_full":
            assert time.monotonic() < deadline
            time.sleep(0.2)
            final = someone.reply(someone.ask(HELLO))
        assert final.kind == "final", final.payload
        assert final.json["choices"][0]["message"]["content"]
        while not self.heard or self.heard[-1].payload != final.payload:
            self.heard.append(self.onlooker.heard.get(timeout=WAIT_SECONDS))

    def replies(self, prompt_id: str) -> list[Heard]:
        """What was said to a prompt, wherever it went, until the device was last settled."""
        return [h for h in self.heard if h.kind and h.user["ek-id"] == prompt_id]

    def close_strangers(self) -> None:
        """All of them."""
        while self.strangers:
            self.strangers.pop().close()


def ended(sock: socket.socket) -> bool:
    """Whether the other end goes, with a DISCONNECT or without; else a TimeoutError."""
    with suppress(ConnectionError):
        while sock.recv(4096):
            """What it has to say."""
    return True


@contextmanager
def flood(
    device: Attacked,
    name: str,
    body: dict[str, Any],
    expiry_seconds: int = EXPIRY_SECONDS,
    *,
    again: bool = False,
) -> Iterator[None]:
    """One requester's prompts, a hundred a second, as long as the block lasts.

    Args:
        device: that is flooded.
        name: of the requester.
        body: of each prompt.
        expiry_seconds: of each prompt.
        again: it is always the same prompt, with new Correlation Data.
    """
    stop = threading.Event()
    request = topics.request_topic("demo", name).encode()
    expiry = b"\x02" + bytes([0, 0, 0, expiry_seconds])
    properties = b"\x08" + string(f"edgekit/v1/res/{name}/1".encode()) + expiry
    payload = json.dumps(body).encode()

    def publish_on(sock: socket.socket) -> None:
        for number in itertools.count():
            serial = f"{id(stop)}-{number}".encode()
            prompt_id = b"\x26" + string(b"ek-id") + string(b"again" if again else serial)
            correlation = b"\x09" + string(serial)
            sock.sendall(publish(request, payload, properties + correlation + prompt_id))
            if stop.wait(1 / FLOOD_PER_SECOND):
                return

    with device.raw() as sock:
        sock.sendall(connect(name.encode(), username=name.encode()))
        thread = threading.Thread(target=publish_on, args=(sock,), daemon=True)
        thread.start()
        time.sleep(0.5)
        yield
        stop.set()
        thread.join(WAIT_SECONDS)


def seconds(victim: Stranger, body: dict[str, Any] = SHORT) -> float:
    """From a prompt to its final."""
    began = time.monotonic()
    assert victim.reply(victim.ask(body)).kind == "final"
    return time.monotonic() - began


def flooded_to_idle(
    device: Attacked, victim: Stranger, name: str, rounds: int = ROUNDS, **fields: Any
) -> float:
    """Medians of the victim's times, measured in turns; `fields` are further ones of the flood."""
    idle, flooded = [], []
    for _ in range(rounds):
        time.sleep(DRAIN_SECONDS)  # nothing of a flood is left
        idle.append(seconds(victim))
        with flood(device, name, SHORT | fields, 1):
            time.sleep(1)  # what it had saved up meanwhile
            flooded.append(seconds(victim))
    ratio = statistics.median(flooded) / statistics.median(idle)
    print(f"idle {idle}, flooded {flooded}, ratio {ratio:.2f}")
    return ratio


def overtaken(heard: list[Heard], topic: str) -> int:
    """How many others' prompts began between `accepted` and the first delta on this topic."""
    mine = [n for n, h in enumerate(heard) if h.topic == topic]
    window = heard[mine[0] : mine[1]]
    first = [h for h in window if h.kind == "delta" and h.user["ek-seq"] == "0"]
    return len({h.user["ek-id"] for h in first})


@contextmanager
def attacked(folder: Path, model: Path, settings: str = "") -> Iterator[Attacked]:
    """A device that answers, at a Mosquitto with an ACL; `settings` are lines of its fleet.toml."""
    (folder / "acl").write_text(ACL)
    (folder / "acl").chmod(0o600)
    with tools.mosquitto(folder, more_config=f"acl_file {folder / 'acl'}\n") as broker:
        project = make_project(folder / "project", broker.port, model)
        with (project.folder / "edgekit.toml").open("a") as file:
            file.write(f'username = "{AGENT}"\n')
        with (project.folder / "fleet.toml").open("a") as file:
            file.write(settings)
        onlooker = Stranger(broker.port, ADMIN, "edgekit/#")
        device = Attacked(project, broker, onlooker)
        early = device.stranger(ADMIN)
        early.ask(HELLO, "retained-before", retain=True)
        project.copy_root(model)
        project.edgekit("push", "demo")
        try:
            yield device
        finally:
            device.close_strangers()
            onlooker.close()
            project.edgekit("stop", "demo")
