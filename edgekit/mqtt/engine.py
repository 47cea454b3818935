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
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol.reasons import PACKET_TOO_LARGE, QUOTA_EXCEEDED, SESSION_TAKEN_OVER
from edgekit.core.protocol.wire import Outbound
from edgekit.errors import EdgekitError
from edgekit.mqtt import tls
from edgekit.mqtt.credentials import read_password
from edgekit.mqtt.hardened import MAX_PACKET_BYTES, EncodedProperties, UnbreakableClient
from edgekit.mqtt.options import ClientOptions
from edgekit.mqtt.packet import packet_bytes, publish_properties, read_publish
from edgekit.mqtt.standing import Standing
from edgekit.mqtt.terms import BrokerTerms, explain_lack, read_terms

log = logging.getLogger(__name__)

MAX_QUEUED_MESSAGES = 1000  # paho's default is unbounded
MAX_INFLIGHT_MESSAGES = 20  # Mosquitto's default; a broker's Receive Maximum may be lower
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
        on_settled: called when the client has subscribed, or when `standing.refusal` is set.

    Attributes:
        client: the client of paho, which the driver drives.
        standing: what the broker grants, and why it refuses.

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
        will = options.get("will")
        self._retains = options.get("retained", False) or bool(will and will.retain)
        self._epoch = 0
        self._attempt = 0
        self._connected_at = math.inf
        self._accepted = False  # by a CONNACK on the present connection
        self._subscribed_at = math.inf
        self._asked: list[tuple[str, int]] = []  # filters and QoS of the latest SUBSCRIBE
        self._lock = threading.Lock()
        self._unacked: dict[int, Future[int]] = {}
        self._early: dict[int, int] = {}
        self._socket: socket.socket | None = None
        self.standing = Standing(broker, client_id)
        self.client = _paho(client_id, options)
        self.client.on_pre_connect = self._about_to_connect
        self.client.on_socket_open = self._socket_opened
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.on_subscribe = self._suback
        self.client.on_publish = self._puback
        self.client.on_publish_packet = self._publish_packet
        self.client.on_old_connack = self._not_mqtt5
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
            self.standing.complain(tls.explain(error, self._broker))
        self._back_off()

    def publish(self, message: Outbound) -> Future[int]:
        """Send a message; the future gets the PUBACK's reason code (0 for QoS 0, once sent).

        A message that is larger than the broker's largest packet is left out, as the standard
        demands (§3.2.2.3.6): the future gets `PACKET_TOO_LARGE`.
        """
        encoded = publish_properties(message)
        if (size := packet_bytes(message, encoded)) > self.standing.terms.max_packet_bytes:
            self.standing.left_out(message.topic, size)
            return _settled(PACKET_TOO_LARGE)
        properties: Any = EncodedProperties(encoded)
        info = self.client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        )
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE or (info.rc and message.qos == 0):
            return _settled(QUOTA_EXCEEDED)  # dropped here, never sent
        if info.rc and not self._resend:
            return _settled(LOST)
        future: Future[int] = Future()
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
            self.client.username_pw_set(self._broker.username, read_password(self._broker))
        if self._broker.tls:
            self.client.renew_tls(tls.make_context(self._broker))

    def _about_to_connect(self, _client: object, _userdata: object) -> None:
        """Read the credentials again: a password, certificate or CA file may have changed."""
        self.client.limit(keepalive_seconds=self._broker.keepalive_seconds)
        try:
            self._read_credentials()
        except EdgekitError as error:  # the credentials read before may still work
            self.standing.complain(error)
        except OSError as error:  # the file was removed during the read
            self.standing.complain(EdgekitError("a certificate cannot be read", str(error)))

    def _socket_opened(self, _client: object, _userdata: object, sock: Any) -> None:
        self._epoch += 1
        self._accepted = False
        if isinstance(sock, socket.socket):  # an SSLSocket is one too
            self._socket = sock
            # Nagle's algorithm costs up to 68 ms for each QoS 1 round trip.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._bound_silence(self._broker.keepalive_seconds)

    def _bound_silence(self, seconds: int) -> None:
        """Notice unacknowledged data on a dead network no later than a missing ping."""
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)

    def _connected(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: object,
        code: ReasonCode,
        properties: object,
    ) -> None:
        self._accepted = True
        if code.is_failure:
            self.standing.refused_with(code.value, str(code), properties)
            self._on_settled()
            return
        granted = read_terms(properties)
        self._take(granted)
        filters = [f for f, _ in self._subscriptions]
        if lack := granted.lack(retains=self._retains, filters=filters):
            self._refused(explain_lack(self._broker, lack))
            client.disconnect()
            return
        self.standing.refusal, self.standing.unserved = None, ()
        self._connected_at = time.monotonic()
        if not self._resend:
            self._drop_unacked()
        served = granted.served(self._subscriptions)
        self._asked = served
        unserved = [f for f, qos in self._subscriptions if (f, qos) not in served]
        self.standing.not_served(unserved, "it has no shared subscriptions")
        if served:
            client.subscribe([(f, SubscribeOptions(qos=qos)) for f, qos in served])
        else:
            self._now_subscribed()

    def _take(self, granted: BrokerTerms) -> None:
        """Keep to the limits of a CONNACK."""
        self.standing.granted(granted)
        seconds = granted.keepalive(self._broker.keepalive_seconds)
        inflight = min(MAX_INFLIGHT_MESSAGES, granted.receive_maximum)
        self.client.limit(keepalive_seconds=seconds, inflight_messages=inflight)
        self._bound_silence(seconds)

    def _suback(
        self,
        _client: object,
        _userdata: object,
        _mid: int,
        codes: list[ReasonCode],
        properties: object,
    ) -> None:
        if all(code.is_failure for code in codes):  # without codes the packet cannot be read
            about = "a subscription was refused: "
            self.standing.refused_with(codes[0].value, str(codes[0]), properties, about=about)
            self._on_settled()
            return
        for (each, qos), code in zip(self._asked, codes, strict=False):
            if code.is_failure:  # e.g. a pool's: the client serves the others
                self.standing.not_served([each], str(code))
            elif code.value < qos:
                self.standing.granted_less(each, code.value)
        self._now_subscribed()

    def _not_mqtt5(self, code: int) -> None:
        self.standing.no_mqtt5(code)
        self._on_settled()

    def _refused(self, why: EdgekitError) -> None:
        self.standing.refused(why)
        self._on_settled()

    def _now_subscribed(self) -> None:
        self.standing.subscribed()
        self._subscribed_at = time.monotonic()
        self._on_settled()
        self._guard(self._on_connection, True)

    def _disconnected(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        properties: object,
    ) -> None:
        was_up, told = self.connected, flags.is_disconnect_packet_from_server
        now = time.monotonic()
        if now - self._connected_at >= STEADY_SECONDS:
            self._attempt = 0
        lived_seconds, self._subscribed_at = now - self._subscribed_at, math.inf
        self._connected_at = math.inf
        self._epoch += 1
        alert = self._socket.alert if isinstance(self._socket, tls.Socket) else None
        if alert is not None:
            self._refused(tls.explain(alert, self._broker))
        elif code.is_failure and (was_up or self.standing.refusal is None):
            accepted = self._accepted
            self.standing.lost(code.value, str(code), properties, accepted=accepted, told=told)
        if lived_seconds >= 0:
            self.standing.ended(lived_seconds, told=told)
        if not self._resend:
            self._drop_unacked()
        if was_up:
            self._guard(self._on_connection, False)
        if told and code.value == SESSION_TAKEN_OVER:
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


def _settled(code: int) -> Future[int]:
    future: Future[int] = Future()
    future.set_result(code)
    return future


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
