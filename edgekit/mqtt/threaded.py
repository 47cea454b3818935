"""The MQTT client of a requester: paho's thread drives the engine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, Unpack

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol.wire import Outbound
from edgekit.errors import UnreachableError
from edgekit.mqtt import tls
from edgekit.mqtt.engine import CONNECT_TIMEOUT_SECONDS, MqttConnection
from edgekit.mqtt.options import ClientOptions


class MqttClient:
    """One connection that reconnects by itself, with a thread of its own.

    Callbacks run on that thread; any thread may call the methods.

    Args:
        broker: where to connect.
        client_id: unique at the broker.
        options: see `ClientOptions`.

    Raises:
        EdgekitError: see `MqttConnection`.
    """

    def __init__(
        self, broker: BrokerConfig, client_id: str, **options: Unpack[ClientOptions]
    ) -> None:
        self._broker = broker
        self._settled = threading.Event()  # subscribed, or refused with a reason
        self._engine = MqttConnection(
            broker, client_id, self._retry_after, options, on_settled=self._settled.set
        )
        self._client = self._engine.client
        self._client.on_connect_fail = self._connect_failed

    def connect(self, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> None:
        """Connect and subscribe, or fail.

        Raises:
            UnreachableError: nothing listens there, or no CONNACK and SUBACK in time.
            VerificationError: the broker's certificate is not acceptable.
            EdgekitError: the broker refused.
        """
        try:
            self._engine.address()
            self._client.reconnect()
        except (OSError, ValueError) as error:
            raise tls.explain(error, self._broker) from error
        self._client.loop_start()
        settled = self._settled.wait(timeout_seconds)
        if self._engine.standing.refusal:
            self.close()
            raise self._engine.standing.refusal
        if not settled:
            self.close()
            raise UnreachableError(
                f"the broker at {self._broker} accepts connections but does not speak MQTT 5",
                f"no CONNACK and SUBACK within {timeout_seconds:g} s",
                "is this the broker's MQTT port? One with TLS takes tls = true in [broker]",
            )

    def publish(self, message: Outbound) -> Future[int]:
        """See `MqttConnection`; a message with QoS 1 waits for a connection."""
        return self._engine.publish(message)

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that the broker takes."""
        return self._engine.standing.terms.max_packet_bytes

    @property
    def unserved(self) -> tuple[str, ...]:
        """The filters that the broker does not serve, though it serves others."""
        return self._engine.standing.unserved

    def ack(self, token: Any) -> None:
        """See `MqttConnection`."""
        self._engine.ack(token)

    @property
    def connected(self) -> bool:
        """See `MqttConnection`."""
        return self._engine.connected

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """See `MqttConnection`."""
        self._engine.unsubscribe(filters)

    def close(self, flush_seconds: float = 0.0) -> None:
        """Send DISCONNECT and stop; the broker then does not publish the Will.

        To close a socket with unread data resets the connection. A broker that lags behind then
        misses the last messages and the DISCONNECT, and publishes the Will.

        Args:
            flush_seconds: the longest time to wait for the PUBACKs of sent messages, which avoids
                such a reset.
        """
        if flush_seconds:
            wait_for(self._engine.unacked, flush_seconds)
        self._client.disconnect()
        self._client.loop_stop()

    def _retry_after(self, seconds: float) -> None:
        """Set the delay that paho reads before each attempt."""
        self._client.reconnect_delay_set(seconds, seconds)  # type: ignore[arg-type]  # any number

    def _connect_failed(self, _client: object, _userdata: object) -> None:
        self._engine.attempt_failed(sys.exception())  # paho is handling it
