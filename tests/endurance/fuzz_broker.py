"""Mutated packets through a real broker: what it passes on comes to the device."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from contextlib import suppress

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests.endurance.fuzz_target import BODY
from tests.harness.packets import connect, publish, string

BATCH = 25  # packets of one connection, unless the broker ends it before
CONNECT_SECONDS = 5.0
ASKING = (b"fuzz-a", b"fuzz-b")  # nobody else publishes a prompt, so nobody else is answered
STRANGERS = (b"fuzz-victim", b"fuzz-nobody")
USUAL = 0.9  # how likely a part of a packet is as it should be

_TEXTS = (b"", b"x", "\ufeff".encode(), "é☕".encode(), b"\xff", b"\0", b"x" * 9000, b"#", b"\x01")
_BODIES = (
    *(BODY, b"", b"{", b"[" * 50_000, b'{"a":' * 9000, b"\xff" * 100, b"x" * 200_000),
    b'{"messages": [{"role": "user", "content": "Hi"}], "stop": ["' + b"a" * 90_000 + b'"]}',
    b'{"kind": "cancel", "id": "one"}',
    b'{"kind": "query", "id": "one"}',
)


def packet_of(choose: random.Random, device: str) -> bytes:
    """A PUBLISH to a device: well put together of parts that are odd now and then, or with bytes
    changed."""

    def maybe(usual: bytes, *odd: bytes) -> bytes:
        return usual if choose.random() < USUAL else choose.choice(odd)

    name = maybe(choose.choice(ASKING), b"", b"a b", "\ufeff".encode(), *_TEXTS)
    where = choose.choice((topics.request_topic, topics.request_topic, topics.control_topic))
    topic = where(device, "").encode() + name
    answer_to = maybe(name, *STRANGERS, b"")
    address = topics.response_prefix("").encode()[:-1] + answer_to + b"/" + maybe(b"1", *_TEXTS)
    properties = b"".join(
        (
            b"\x08" + string(address),
            b"\x02" + maybe(b"\0\0\0\x3c", b"\0\0\0\0", b"\0\0\0\1", b"\xff" * 4),
            maybe(b"", b"\x09" + string(b"c"), b"\x09" + string(b"x" * 60_000), b"\x09\0\0"),
            b"\x03" + string(maybe(b"application/json", b"application/cbor", *_TEXTS)),
            maybe(b"\1\1", b"\1\0", b"\1\2", b""),
            b"\x26" + string(b"ek-id") + string(maybe(choose.randbytes(2).hex().encode(), *_TEXTS)),
            maybe(b"", b"\x26" + string(b"ek-want") + string(b"final")),
            maybe(b"", *(b"\x26" + string(text) + string(b"") for text in _TEXTS)),
            maybe(b"", (b"\x26" + bytes(4)) * 30_000),
        )
    )
    data = publish(topic, maybe(BODY, *_BODIES), properties)
    if choose.random() < USUAL:
        return data
    changed = bytearray(data)
    for _ in range(choose.randint(1, 3)):
        changed[choose.randrange(min(len(changed), 300))] = choose.randrange(256)
    return bytes(changed)


class Onlooker:
    """Who hears every answer, and tells which went to somebody who had not asked."""

    def __init__(self, broker: BrokerConfig) -> None:
        self.seen: Counter[str] = Counter()
        self.strangers: list[str] = []
        self._lock = threading.Lock()
        self._mqtt = MqttClient(
            broker,
            "fuzz-onlooker",
            subscriptions=[(f"{topics.PREFIX}/res/#", 1)],
            on_message=self._heard,
        )
        self._mqtt.connect()

    def close(self) -> None:
        """Go."""
        self._mqtt.close()

    def _heard(self, message: wire.Inbound) -> None:
        with self._lock:
            self.seen["replies"] += 1
            if message.topic.split("/")[3].encode() in STRANGERS:
                self.strangers.append(message.topic)


def attack(broker: BrokerConfig, device: str, packets: int, seed: int) -> Counter[str]:
    """Send so many; what was sent, and how often the broker ended the connection."""
    choose = random.Random(seed)
    seen: Counter[str] = Counter()
    username = broker.username.encode()
    while seen["packets"] < packets:
        with socket.create_connection((broker.host, broker.port), CONNECT_SECONDS) as sock:
            sock.sendall(connect(b"fuzz-%d" % seed, username=username))
            sock.recv(4096)
            seen["connections"] += 1
            with suppress(ConnectionError):
                for _ in range(min(BATCH, packets - seen["packets"])):
                    seen["packets"] += 1
                    sock.sendall(packet_of(choose, device))
    return seen
