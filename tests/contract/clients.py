"""An MQTT client as the contract's tests use it, and brokers that are a script."""

from __future__ import annotations

import queue
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, ClassVar

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.mqtt.engine import MqttConnection
from edgekit.mqtt.threaded import MqttClient
from tests.polled import Polled

WAIT_SECONDS = 10.0  # for what must come
NOTHING_SECONDS = 0.5  # for what must not


def unique(level: str = "test") -> str:
    return f"{level}/{uuid.uuid4().hex[:8]}"


class Client:
    """An MQTT client whose messages and connections are kept.

    Attributes:
        drive: makes it: the one with a thread of its own, or the agent's, which is polled.
    """

    drive: ClassVar[type[MqttClient | Polled]] = MqttClient

    def __init__(
        self,
        port: int,
        *filters: str,
        on_message: Callable[[wire.Inbound], None] | None = None,
        wait: bool = True,
        **options: Any,
    ) -> None:
        self.messages: queue.SimpleQueue[wire.Inbound] = queue.SimpleQueue()
        self.connections: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.mqtt = self.drive(
            BrokerConfig("127.0.0.1", port, keepalive_seconds=options.pop("keepalive_seconds", 5)),
            options.pop("client_id", unique("c").replace("/", "-")),
            subscriptions=[(f, 1) for f in filters],
            on_message=on_message or self.messages.put,
            on_connection=self.connections.put,
            **options,
        )
        if not wait:
            assert isinstance(self.mqtt, Polled)
            self.mqtt.start()
        else:
            self.mqtt.connect(WAIT_SECONDS)
            assert self.connections.get(timeout=WAIT_SECONDS)

    @property
    def own(self) -> MqttConnection:
        """Ours, without what drives it."""
        driver = self.mqtt.link if isinstance(self.mqtt, Polled) else self.mqtt
        return driver._engine

    @property
    def socket(self) -> socket.socket:
        sock = self.mqtt._client.socket()
        assert isinstance(sock, socket.socket)
        return sock

    def publish(self, topic: str, payload: bytes = b"x", **more: Any) -> int:
        return self.mqtt.publish(wire.Outbound(topic, payload, **more)).result(WAIT_SECONDS)

    def receive(self) -> wire.Inbound:
        return self.messages.get(timeout=WAIT_SECONDS)

    def receives_nothing(self) -> bool:
        with suppress(queue.Empty):
            self.messages.get(timeout=NOTHING_SECONDS)
            return False
        return True

    def vanish(self) -> None:
        """Be gone as a killed process is: the kernel closes the socket, nobody says goodbye."""
        if isinstance(self.mqtt, Polled):
            self.mqtt.stop()
        else:
            self.mqtt._client.loop_stop()
        self.socket.close()

    def close(self) -> None:
        self.mqtt.close()


@contextmanager
def client(port: int, *filters: str, **options: Any) -> Iterator[Client]:
    with closing(Client(port, *filters, **options)) as made:
        yield made


def scripted(server: socket.socket, *then: bytes) -> None:
    """Take one client as a broker does, then send what is given."""
    connection, _ = server.accept()
    connection.recv(1 << 16)  # CONNECT
    connection.sendall(bytes.fromhex("20 03 00 00 00"))  # CONNACK
    subscribe = connection.recv(1 << 16)
    connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x00")  # SUBACK
    for packet in then:
        connection.sendall(packet)
    connection.close()
