"""The real MQTT client and the real session, fed with bytes as a broker would send them."""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections import Counter
from contextlib import suppress

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.mqtt.threaded import MqttClient
from tests.endurance.fuzz_session import DEVICE, NAMES, Watched
from tests.harness.packets import packet, publish, string

SLOW_SECONDS = 2.0  # for one input: it holds the client up
BUFFER_BYTES = 1 << 20
BODY = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}).encode()
TOPIC = topics.request_topic(DEVICE, NAMES[0]).encode()
ADDRESS = b"\x08" + string(b"edgekit/v1/res/alice/1") + b"\x02\x00\x00\x00\x3c"
USER = b"\x26" + string(b"ek-id") + string(b"one")
SEEDS = (
    publish(TOPIC, BODY, ADDRESS + USER),
    publish(TOPIC, BODY, ADDRESS + b"\x09" + string(b"c") + b"\x03" + string(b"application/json")),
    publish(TOPIC, b'{"messages":' + b"[" * 500, ADDRESS + USER + b"\x01\x01"),
    publish(
        topics.control_topic(DEVICE, NAMES[0]).encode(), b'{"kind":"query","id":"one"}', ADDRESS
    ),
    packet(0x32, string(TOPIC) + b"\x00\x07\x00" + BODY),
    packet(0x20, b"\x00\x00\x03\x21\x00\x14"),
    packet(0x90, b"\x00\x01\x00\x01"),
    packet(0x40, b"\x00\x01\x10\x00"),
    packet(0x50, b"\x00\x01"),
    packet(0x62, b"\x00\x01"),
    packet(0xB0, b"\x00\x01\x00\x00"),
    packet(0xD0, b""),
    packet(0xE0, b"\x8b\x00"),
)


class HeldUpError(AssertionError):
    """An input took too long, or left a connection that nobody knows to be gone."""


class Target:
    """One client whose broker is this process; a connection ends with the input that spoils it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._watched = Watched(seen=self.seen)
        self._theirs: socket.socket | None = None
        self._connected = False
        self._mqtt = MqttClient(
            BrokerConfig(),
            "fuzz",
            subscriptions=[("x", 1)],
            on_message=self._message,
            on_connection=self._connection,
            manual_ack=True,
            resend=False,
        )
        self._paho = self._mqtt._client
        self._paho._create_socket = self._create_socket  # type: ignore[method-assign]  # ours
        self._paho.on_socket_open = lambda *_: None  # it sets options of TCP
        self._paho.connect_async("none")

    def feed(self, data: bytes) -> None:
        """These bytes come.

        Raises:
            HeldUpError: the client was held up, or did not say that it lost its connection.
            Exception: what the client or the session let through, and would have died of.
        """
        self.seen["packets"] += 1
        began = time.monotonic()
        if self._paho.socket() is None:
            self._paho.reconnect()
            self._feed(packet(0x20, b"\x00\x00\x00") + packet(0x90, b"\x00\x01\x00\x01"))
        self._feed(data)
        if self._paho._in_packet["command"]:  # the rest of it will not come
            assert self._theirs is not None
            self._theirs.close()
            self._paho.loop_read()
        if self._paho.socket() is None:
            self.seen["connections lost"] += 1
            if self._connected:
                raise HeldUpError("nobody was told that the connection is lost")
        if time.monotonic() - began > SLOW_SECONDS:
            raise HeldUpError(f"{time.monotonic() - began:.1f} s")

    def _feed(self, data: bytes) -> None:
        theirs, ours = self._theirs, self._paho.socket()
        assert theirs is not None
        assert ours is not None
        theirs.sendall(data)
        while self._paho.socket() is ours and select.select([ours], [], [], 0)[0]:
            self._paho.loop_read()
        while self._paho.socket() is ours and self._paho.want_write():
            self._paho.loop_write()
            self._drain(theirs)
        self._drain(theirs)

    def _drain(self, sock: socket.socket) -> None:
        with suppress(ConnectionError):
            while select.select([sock], [], [], 0)[0] and sock.recv(BUFFER_BYTES):
                """What the client says to its broker."""

    def _create_socket(self) -> socket.socket:
        if self._theirs is not None:
            self._theirs.close()
        ours, self._theirs = socket.socketpair()
        for sock in (ours, self._theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        return ours

    def _message(self, message: wire.Inbound) -> None:
        if self.seen["packets"] % 50 == 0:
            self._watched.time_passes(1.0)
        self._watched.receive(message)
        self._watched.worker_says(self.seen["Received"] % 7)

    def _connection(self, up: bool) -> None:
        self._connected = up


def framed(data: bytes) -> bytes:
    """An input as a packet, mostly with a right Remaining Length: more of it is read so."""
    if len(data) < 2 or data[0] % 4 == 0:
        return data[1:]
    return packet(data[1], data[2:])


def unframed(whole: bytes) -> bytes:
    """The input that `framed` makes this packet of."""
    length = 1
    while whole[length] & 0x80:
        length += 1
    return b"\x01" + whole[:1] + whole[length + 1 :]


def mutated(choose: random.Random) -> bytes:
    """One of the seeds with some bytes changed, added or taken away."""
    data = bytearray(unframed(choose.choice(SEEDS)))
    for _ in range(choose.randint(1, 6)):
        at = choose.randrange(len(data) + 1)
        new = choose.choice(
            (b"\x00", b"\xff", b"\x80", b"\x26", b"#", choose.randbytes(3), b"" * 9)
        )
        data[at : at + choose.choice((0, 0, 1, 1, 2, 40))] = new
    return bytes(data)
