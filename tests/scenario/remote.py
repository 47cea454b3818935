"""An agent somewhere, seen by one requester through a broker."""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from dataclasses import dataclass, field

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.core.rules.rule import OUTPUTS
from edgekit.mqtt.threaded import MqttClient
from tests.scenario.story import Model

PUBACK_SECONDS = 15.0


@dataclass
class Remote:
    """The client's side of a target; nothing can be broken over MQTT."""

    broker: BrokerConfig
    requester: str
    _inbox: queue.SimpleQueue[wire.Inbound] = field(default_factory=queue.SimpleQueue)
    _up: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self._mqtt = MqttClient(
            self.broker,
            f"story-{self.requester}",
            subscriptions=[
                (topics.response_prefix(self.requester) + "#", 1),
                (f"{OUTPUTS}/+/+", 1),
            ],
            on_message=self._inbox.put,
            on_connection=self._up.put,
        )
        self._mqtt.connect()
        assert self._up.get(timeout=10)

    def close(self) -> None:
        self._mqtt.close()

    def publish(self, message: wire.Outbound) -> int:
        return self._mqtt.publish(message).result(timeout=PUBACK_SECONDS)

    def replies(self, seconds: float) -> list[wire.Inbound]:
        came = []
        with suppress(queue.Empty):
            came.append(self._inbox.get(timeout=seconds))
            while True:
                came.append(self._inbox.get_nowait())
        return came

    def advance(self, seconds: float) -> None:
        time.sleep(seconds)

    def model(self, said: Model, requester: str) -> None:
        """It speaks by itself."""

    def fault(self, name: str) -> None:
        raise NotImplementedError(name)
