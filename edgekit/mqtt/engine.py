"""One MQTT 5 connection that reconnects by itself: the common part of its two drivers.

The drivers `threaded` and `polled` decide when to read the socket and when to reconnect; this
module does the rest. It adds the parts that paho leaves to its user, each because a measurement
showed the need: TCP_NODELAY, guarded callbacks (an exception in `on_message` kills paho's thread
silently), bounded queues, a reconnect with jitter (thousands of clients lose one broker together),
a new subscription after every CONNACK, and PUBACK only on request and never for a message of an
earlier connection.
"""

from __future__ import annotations

import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgekit.core.config import BrokerConfig
from edgekit.core.reasons import QUOTA_EXCEEDED, SESSION_TAKEN_OVER
from edgekit.core.wire import Outbound
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.mqtt import tls
from edgekit.mqtt.hardened import MAX_PACKET_BYTES, EncodedProperties, UnbreakableClient
from edgekit.mqtt.options import ClientOptions
from edgekit.mqtt.packet import publish_properties, read_publish

log = logging.getLogger(__name__)

MAX_QUEUED_MESSAGES = 1000  # paho's default is unbounded
MAX_INFLIGHT_MESSAGES = 20  # Mosquitto's default; paho ignores CONNACK's Receive Maximum
CONNECT_TIMEOUT_SECONDS = 10.0
RECONNECT_BASE_SECONDS = 1.0
RECONNECT_MAX_SECONDS = 15.0
STEADY_SECONDS = 10.0  # a connection that lived this long resets the back-off
LOST = 0x100  # not an MQTT reason code: the connection ended before the PUBACK came


def reconnect_delay_seconds(attempt: int, draw: float) -> float:
    """Full jitter: a delay between 0 and a bound that doubles with each attempt, up to a cap.

    Args:
        attempt: 0 for the first attempt after a connection was lost.
        draw: uniform in [0, 1).
    """
    return draw * min(RECONNECT_MAX_SECONDS, RECONNECT_BASE_SECONDS * 2.0 ** min(attempt, 10))


class MqttConnection:
    """One connection and its messages; a driver reads and writes the socket of `client`.

    The session ends with the connection (Session Expiry 0), because the broker would otherwise send
    prompts to the shared subscription of an absent client.

    Args:
        broker: where to connect.
        client_id: unique at the broker.
        retry_after: called with the seconds after which the driver must reconnect.
        options: see `ClientOptions`.
        on_settled: called when the client has subscribed, or when `refusal` holds a reason.

    Attributes:
        client: the client of paho, which the driver drives.
        refusal: why the broker refuses us or we refuse its certificate; None once connected.

    Raises:
        UsageError: a file of `[broker]` cannot be read or has the wrong contents.
        EdgekitError: the password cannot be read.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        client_id: str,
        retry_after: Callable[[float], None],
        options: ClientOptions,
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._retry_after = retry_after
        self._on_settled = on_settled
        self._subscriptions = list(options["subscriptions"])
        self._on_message = options["on_message"]
        self._on_connection = options.get("on_connection", lambda _: None)
        self._on_taken_over = options.get("on_taken_over", lambda: None)
        self._resend = options.get("resend", True)
        self._epoch = 0
        self._attempt = 0
        self._connected_at = math.inf
        self._lock = threading.Lock()
        self._unacked: dict[int, Future[int]] = {}
        self._early: dict[int, int] = {}
        self._complaint = ""
        self._socket: socket.socket | None = None
        self.refusal: EdgekitError | None = None
        self.client = _paho(client_id, options)
        self.client.on_pre_connect = self._about_to_connect
        self.client.on_socket_open = self._socket_opened
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.on_subscribe = self._suback
        self.client.on_publish = self._puback
        self.client.on_publish_packet = self._publish_packet
        self._connect_properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        self._connect_properties.MaximumPacketSize = self.client.max_packet_bytes
        self._read_credentials()

    def address(self) -> None:
        """Tell paho where to connect, before the first attempt."""
        # Clean Start on the first connection only, as is paho's default. A reconnect may replace a
        # connection that the broker still holds: to end that session would publish the Will.
        self.client.connect_async(
            self._broker.host,
            self._broker.port,
            self._broker.keepalive_seconds,
            properties=self._connect_properties,
        )

    def attempt_failed(self, error: BaseException | None) -> None:
        """Log why there is no connection, if that is known, and schedule the next attempt."""
        if isinstance(error, (OSError, ValueError)):
            self._complain(tls.explain(error, self._broker))
        self._back_off()

    def publish(self, message: Outbound) -> Future[int]:
        """Send a message; the future gets the PUBACK's reason code (0 for QoS 0, once sent)."""
        properties: Any = EncodedProperties(publish_properties(message))
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        )
        future: Future[int] = Future()
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE or (info.rc and message.qos == 0):
            future.set_result(QUOTA_EXCEEDED)  # dropped here, never sent
            return future
        if info.rc and not self._resend:
            future.set_result(LOST)
            return future
        # We do not hold our lock during paho's publish: paho calls `_puback` under its own lock.
        with self._lock:
            code = self._early.pop(info.mid, None)
            if code is None:
                self._unacked[info.mid] = future
        if code is not None:
            future.set_result(code)
        return future

    def ack(self, token: Any) -> None:
        """PUBACK a message unless its connection has ended: a new one reuses packet ids."""
        epoch, mid, qos = token
        if qos > 0 and epoch == self._epoch:
            self.client.ack(mid, qos)

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection is not known to be lost."""
        return self._connected_at < math.inf

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe from these filters, on this connection and on later ones."""
        self._subscriptions = [(f, qos) for f, qos in self._subscriptions if f not in filters]
        if filters and self.connected:
            self.client.unsubscribe(list(filters))

    @property
    def unacked(self) -> list[Future[int]]:
        """The futures of the messages that wait for a PUBACK."""
        with self._lock:
            return list(self._unacked.values())

    def _read_credentials(self) -> None:
        if self._broker.username:
            self.client.username_pw_set(self._broker.username, _password(self._broker))
        if self._broker.tls:
            self.client.renew_tls(tls.make_context(self._broker))

    def _about_to_connect(self, _client: object, _userdata: object) -> None:
        """Read the credentials again: a password, certificate or CA file may have changed."""
        try:
            self._read_credentials()
        except EdgekitError as error:  # the credentials read before may still work
            self._complain(error)
        except OSError as error:  # the file was removed during the read
            self._complain(EdgekitError("a certificate cannot be read", str(error)))

    def _socket_opened(self, _client: object, _userdata: object, sock: Any) -> None:
        self._epoch += 1
        if isinstance(sock, socket.socket):  # an SSLSocket is one too
            self._socket = sock
            # Nagle's algorithm costs up to 68 ms for each QoS 1 round trip.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # We notice unacknowledged data on a dead network no later than a missing ping.
            milliseconds = self._broker.keepalive_seconds * 1000
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    def _connected(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: object,
        code: ReasonCode,
        _properties: object,
    ) -> None:
        if code.is_failure:
            self._refused(str(code))
            return
        self.refusal = None
        self._connected_at = time.monotonic()
        if not self._resend:
            self._drop_unacked()
        if self._subscriptions:
            client.subscribe([(f, SubscribeOptions(qos=qos)) for f, qos in self._subscriptions])
        else:
            self._now_subscribed()

    def _suback(
        self,
        _client: object,
        _userdata: object,
        _mid: int,
        codes: list[ReasonCode],
        _properties: object,
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        if len(refused) == len(codes):
            self._refused(f"a subscription was refused: {refused[0]}")
            return
        if refused:  # e.g. a pool's: the client serves the other subscriptions
            log.warning("broker %s refused a subscription: %s", self._broker, refused[0])
        self._now_subscribed()

    def _refused(self, why: str | EdgekitError) -> None:
        if isinstance(why, str):
            step = "check the credentials in [broker]: username and password_file, or cert_file"
            why = EdgekitError(f"the broker at {self._broker} refused", why, step)
        self._complain(why)
        self.refusal = why
        self._on_settled()

    def _complain(self, error: EdgekitError) -> None:
        """Log why there is no connection, once per reason: attempts may go on for days."""
        text = "; ".join(filter(None, (error.what, error.why, error.next_step)))
        if text != self._complaint:
            log.warning(text)
        self._complaint = text

    def _now_subscribed(self) -> None:
        self._complaint = ""
        self._on_settled()
        self._guard(self._on_connection, True)

    def _disconnected(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: object,
    ) -> None:
        was_up = self.connected
        if time.monotonic() - self._connected_at >= STEADY_SECONDS:
            self._attempt = 0
        self._connected_at = math.inf
        self._epoch += 1
        alert = self._socket.alert if isinstance(self._socket, tls.Socket) else None
        if alert is not None:
            self._refused(tls.explain(alert, self._broker))
        elif code.is_failure and (was_up or self.refusal is None):
            self._complain(UnreachableError(f"connection to {self._broker} lost", str(code)))
        if not self._resend:
            self._drop_unacked()
        if was_up:
            self._guard(self._on_connection, False)
        if flags.is_disconnect_packet_from_server and code.value == SESSION_TAKEN_OVER:
            client.disconnect()  # no reconnect
            self._guard(lambda _: self._on_taken_over(), None)
            return
        self._back_off()

    def _back_off(self) -> None:
        """Schedule the next attempt."""
        delay = reconnect_delay_seconds(self._attempt, random.random())  # noqa: S311  no secret
        self._attempt += 1
        self._retry_after(delay)

    def _drop_unacked(self) -> None:
        self.client.drop_out_messages()
        with self._lock:
            lost, self._unacked = self._unacked, {}
            self._early.clear()
        for future in lost.values():
            self._guard(future.set_result, LOST)

    def _puback(
        self,
        _client: object,
        _userdata: object,
        mid: int,
        code: ReasonCode,
        _properties: object,
    ) -> None:
        with self._lock:
            future = self._unacked.pop(mid, None)
            if future is None:  # the PUBACK came before `publish` stored the future
                self._early[mid] = int(code.value)
        if future is not None:
            self._guard(future.set_result, int(code.value))

    def _publish_packet(self, command: int, body: bytes) -> int:
        message = read_publish(command, body, self._epoch)
        self._guard(self._on_message, message)
        return int(message.token[1])

    def _guard(self, call: Callable[[Any], None], argument: Any) -> None:
        try:
            call(argument)
        except Exception:
            log.exception("a callback of the MQTT client failed")


def _paho(client_id: str, options: ClientOptions) -> UnbreakableClient:
    client = UnbreakableClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=paho.MQTTv5,
        manual_ack=options.get("manual_ack", False),
    )
    client.max_packet_bytes = options.get("max_packet_bytes", MAX_PACKET_BYTES)
    client.max_queued_messages_set(MAX_QUEUED_MESSAGES)
    client.max_inflight_messages_set(MAX_INFLIGHT_MESSAGES)
    client.connect_timeout = CONNECT_TIMEOUT_SECONDS
    will = options.get("will")
    if will is not None:
        delay = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]  # paho's
        delay.WillDelayInterval = options.get("will_delay_seconds", 0)  # §3.1.3.2.2
        client.will_set(will.topic, will.payload, will.qos, will.retain, delay)
    return client


def _password(broker: BrokerConfig) -> str | None:
    if not broker.password_file:
        return None
    try:
        return Path(broker.password_file).read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise EdgekitError(
            "the broker's password cannot be read",
            f"{broker.password_file} is not UTF-8 text: {error}",
            "password_file in [broker] must hold the password as UTF-8 text",
        ) from error
    except OSError as error:
        raise EdgekitError(
            "the broker's password cannot be read",
            str(error),
            "password_file in [broker] must name a file that this account may read",
        ) from error
