"""A sensor whose messages a rule hears, and who listens to its answers: two more MQTT clients."""

from __future__ import annotations

import json
import queue
import secrets
import threading
import time
from types import TracebackType

import msgspec

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.core.rules.message import RuleAnswer
from edgekit.mqtt.threaded import MqttClient


class _Client:
    def __init__(self, broker: BrokerConfig, name: str, topics: list[tuple[str, int]]) -> None:
        self._up = threading.Event()
        self.client = MqttClient(
            broker,
            f"{name}-{secrets.token_hex(4)}",
            subscriptions=topics,
            on_message=self._received,
            on_connection=lambda up: self._up.set() if up else self._up.clear(),
        )
        self.client.connect()
        self.back()

    def back(self) -> None:
        """Wait for the connection."""
        assert self._up.wait(60)

    def _received(self, message: wire.Inbound) -> None:
        raise NotImplementedError

    def __enter__(self) -> _Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close(1.0)


class Sensor(_Client):
    """Publishes messages, each with a trace of its own."""

    def __init__(self, broker: BrokerConfig) -> None:
        super().__init__(broker, "sensor", [])

    def __enter__(self) -> Sensor:
        return self

    def send(self, topic: str, payload: object, qos: int = 1) -> str:
        """Publish a message; return its traceparent, which its answer has, too."""
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        user = ((wire.TRACEPARENT, trace),)
        self.client.publish(wire.Outbound(topic, json.dumps(payload).encode(), qos, user=user))
        return trace


class Listener(_Client):
    """Collects answers of rules, with the trace of each."""

    def __init__(self, broker: BrokerConfig, topic: str) -> None:
        self._told: queue.SimpleQueue[tuple[RuleAnswer, str]] = queue.SimpleQueue()
        self._heard: list[tuple[RuleAnswer, str]] = []
        super().__init__(broker, "listener", [(topic, 1)])

    def __enter__(self) -> Listener:
        return self

    def _received(self, message: wire.Inbound) -> None:
        answer = msgspec.json.decode(message.payload, type=RuleAnswer)
        assert message.property("ek-id") == answer.id
        self._told.put((answer, message.property(wire.TRACEPARENT)))

    @property
    def heard(self) -> list[tuple[RuleAnswer, str]]:
        """Every answer that came, a repeated one each time, with its trace."""
        while not self._told.empty():
            self._heard.append(self._told.get())
        return self._heard

    @property
    def answers(self) -> list[RuleAnswer]:
        """Every answer that came."""
        return [answer for answer, _ in self.heard]

    def of(self, trace: str, wait: float = 0.0) -> list[RuleAnswer]:
        """The answers to the message with this trace; after so many seconds if there is none."""
        until = time.monotonic() + wait
        while True:
            found = [answer for answer, theirs in self.heard if theirs == trace]
            if found or time.monotonic() >= until:
                return found
            time.sleep(0.05)
