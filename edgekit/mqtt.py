"""The only door to paho (with `paho_client`): one MQTT 5 client for the agent, which polls it
(`agent/serve/link`), and the requester, for which it has a thread.

What paho leaves to its user is done here, each measured to matter: TCP_NODELAY, guarded callbacks
(an exception in `on_message` kills paho's thread silently), bounded queues, a reconnect with
jitter (thousands of clients lose one broker together), subscribing again after every CONNACK,
PUBACK only when told, and never for a message of an earlier connection.
"""

from __future__ import annotations

import logging
import math
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgekit import tls
from edgekit.core.config import BrokerConfig
from edgekit.core.packet import QUOTA_EXCEEDED, SESSION_TAKEN_OVER, publish_properties, read_publish
from edgekit.core.wire import Inbound, Outbound
from edgekit.errors import EdgekitError, UnreachableError
from edgekit.paho_client import MAX_PACKET_BYTES, Packed, UnbreakableClient

log = logging.getLogger(__name__)

MAX_QUEUED_MESSAGES = 1000  # paho's default is unbounded
MAX_INFLIGHT_MESSAGES = 20  # Mosquitto's default; paho ignores CONNACK's Receive Maximum
CONNECT_TIMEOUT_SECONDS = 10.0
RECONNECT_BASE_SECONDS = 1.0
RECONNECT_MAX_SECONDS = 15.0
STEADY_SECONDS = 10.0  # a connection that lived this long makes the next attempts quick again
LOST = 0x100  # no reason code of MQTT: the connection ended before the PUBACK came


def reconnect_delay_seconds(attempt: int, draw: float) -> float:
    """Full jitter: anything between nothing and a bound that doubles up to a cap.

    Args:
        attempt: 0 for the first one after a connection was lost.
        draw: uniform in [0, 1).
    """
    return draw * min(RECONNECT_MAX_SECONDS, RECONNECT_BASE_SECONDS * 2.0 ** min(attempt, 10))


class MqttClient:
    """One connection that comes back by itself.

    Its session ends with the connection (Session Expiry 0): a shared subscription of one who is
    away would be given prompts.

    Args:
        broker: where to connect.
        client_id: unique at the broker.
        subscriptions: (filter, QoS) pairs, subscribed after every CONNACK.
        on_message: called on paho's thread for each message; an exception is logged.
        on_connection: called on paho's thread with True once subscribed, False when lost.
        on_taken_over: called on paho's thread when the broker says that another client has
            our id (§3.14.2.1, 0x8E); this one then does not come back.
        will: published by the broker when this client vanishes (§3.1.2.5).
        will_delay_seconds: how long the broker waits with it, for the client to come back.
        manual_ack: whether PUBACK waits for `ack`.
        max_packet_bytes: of what comes; the broker is told (§3.1.2.11.4).
        resend: whether messages that wait for a PUBACK when the connection is lost are sent again
            on the next one; if not, they are `LOST`, and the caller has them still.
    """

    def __init__(
        self,
        broker: BrokerConfig,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]],
        on_message: Callable[[Inbound], None],
        on_connection: Callable[[bool], None] = lambda _: None,
        on_taken_over: Callable[[], None] = lambda: None,
        will: Outbound | None = None,
        will_delay_seconds: int = 0,
        manual_ack: bool = False,
        resend: bool = True,
        max_packet_bytes: int = MAX_PACKET_BYTES,
    ) -> None:
        self._broker = broker
        self._subscriptions = list(subscriptions)
        self._on_message = on_message
        self._on_connection = on_connection
        self._on_taken_over = on_taken_over
        self._resend = resend
        self._epoch = 0
        self._attempt = 0
        self._connected_at = math.inf
        self._lock = threading.Lock()
        self._unacked: dict[int, Future[int]] = {}
        self._early: dict[int, int] = {}
        self._refusal: EdgekitError | None = None
        self._complaint = ""
        self._socket: socket.socket | None = None
        self._settled = threading.Event()  # subscribed, or refused with a reason
        self._connect_properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        self._connect_properties.MaximumPacketSize = max_packet_bytes
        client = UnbreakableClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=manual_ack,
        )
        client.max_packet_bytes = max_packet_bytes
        client.max_queued_messages_set(MAX_QUEUED_MESSAGES)
        client.max_inflight_messages_set(MAX_INFLIGHT_MESSAGES)
        client.connect_timeout = CONNECT_TIMEOUT_SECONDS
        if will is not None:
            delay = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]  # paho's
            delay.WillDelayInterval = will_delay_seconds  # §3.1.3.2.2
            client.will_set(will.topic, will.payload, will.qos, will.retain, delay)
        client.on_pre_connect = self._about_to_connect
        client.on_socket_open = self._socket_opened
        client.on_connect = self._connected
        client.on_connect_fail = self._connect_failed
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._suback
        client.on_publish = self._puback
        client.on_publish_packet = self._publish_packet
        self._client = client
        self._read_credentials()

    def connect(self, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> None:
        """Connect and subscribe, or fail.

        Raises:
            UnreachableError: nothing listens there, or no CONNACK and SUBACK in time.
            VerificationError: the broker's certificate is not acceptable.
            EdgekitError: the broker refused.
        """
        try:
            self._address_paho()
            self._client.reconnect()
        except (OSError, ValueError) as error:
            raise tls.explain(error, self._broker) from error
        self._client.loop_start()
        settled = self._settled.wait(timeout_seconds)
        if self._refusal:
            self.close()
            raise self._refusal
        if not settled:
            self.close()
            raise UnreachableError(
                f"the broker at {self._broker} accepts connections but does not speak MQTT 5",
                f"no CONNACK and SUBACK within {timeout_seconds:g} s",
                "is this the broker's MQTT port? One with TLS takes tls = true in [broker]",
            )

    def _address_paho(self) -> None:
        # Clean Start at the first connection only, paho's default: where a later one replaces
        # one that the broker still holds, a session that ends would publish the Will.
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            self._broker.keepalive_seconds,
            properties=self._connect_properties,
        )

    def publish(self, message: Outbound) -> Future[int]:
        """Send; the future holds the PUBACK's reason code (0 once sent for QoS 0)."""
        properties: Any = Packed(publish_properties(message))
        info = self._client.publish(
            message.topic, message.payload, message.qos, message.retain, properties
        )
        future: Future[int] = Future()
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE or (info.rc and message.qos == 0):
            future.set_result(QUOTA_EXCEEDED)  # dropped here, never sent
            return future
        if info.rc and not self._resend:
            future.set_result(LOST)
            return future
        # Not held over paho's publish: paho calls `_puback` under the lock that publish takes.
        with self._lock:
            code = self._early.pop(info.mid, None)
            if code is None:
                self._unacked[info.mid] = future
        if code is not None:
            future.set_result(code)
        return future

    def ack(self, token: Any) -> None:
        """PUBACK a message, unless the connection it came on is gone: packet ids are reused."""
        epoch, mid, qos = token
        if qos > 0 and epoch == self._epoch:
            self._client.ack(mid, qos)

    @property
    def connected(self) -> bool:
        """Whether the broker has taken us, and the connection is not known to be lost."""
        return self._connected_at < math.inf

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Take nothing more of these filters, on later connections neither."""
        self._subscriptions = [(f, qos) for f, qos in self._subscriptions if f not in filters]
        if filters and self.connected:
            self._client.unsubscribe(list(filters))

    def close(self, flush_seconds: float = 0.0) -> None:
        """DISCONNECT and stop; the Will is not published.

        A socket that is closed with something unread in it resets the connection: a broker that is
        behind then neither reads what was sent last nor the DISCONNECT, and publishes the Will.

        Args:
            flush_seconds: to wait at most for the PUBACKs of what was sent, which rules that out.
        """
        with self._lock:
            unacked = list(self._unacked.values())
        if flush_seconds:
            wait_for(unacked, flush_seconds)
        self._client.disconnect()
        self._client.loop_stop()

    def _read_credentials(self) -> None:
        if self._broker.username:
            self._client.username_pw_set(self._broker.username, _password(self._broker))
        if self._broker.tls:
            self._client.renew_tls(tls.make_context(self._broker))

    def _about_to_connect(self, _client: object, _userdata: object) -> None:
        """A password or a certificate may have been renewed, or a CA taken away."""
        try:
            self._read_credentials()
        except EdgekitError as error:  # what was read last may do
            self._complain(error)
        except OSError as error:  # taken away while it was read
            self._complain(EdgekitError("a certificate cannot be read", str(error)))

    def _socket_opened(self, _client: object, _userdata: object, sock: Any) -> None:
        self._epoch += 1
        if isinstance(sock, socket.socket):  # an SSLSocket is one
            self._socket = sock
            # Nagle costs up to 68 ms for each QoS 1 round trip
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What was sent into a network that is gone is noticed no later than a missing ping
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
        self._refusal = None
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
        if refused:  # a pool's, say: what is left is served
            log.warning("broker %s refused a subscription: %s", self._broker, refused[0])
        self._now_subscribed()

    def _refused(self, why: str | EdgekitError) -> None:
        if isinstance(why, str):
            step = "[broker] says who we are: username and password_file, or cert_file"
            why = EdgekitError(f"the broker at {self._broker} refused", why, step)
        self._complain(why)
        self._refusal = why
        self._settled.set()

    def _complain(self, error: EdgekitError) -> None:
        """Log why there is no connection, once per reason: the attempts may go on for days."""
        text = "; ".join(filter(None, (error.what, error.why, error.next_step)))
        if text != self._complaint:
            log.warning(text)
        self._complaint = text

    def _connect_failed(self, _client: object, _userdata: object) -> None:
        if isinstance(error := sys.exception(), OSError):  # paho is handling it
            self._complain(tls.explain(error, self._broker))
        self._back_off()

    def _now_subscribed(self) -> None:
        self._complaint = ""
        self._settled.set()
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
        elif code.is_failure and (was_up or self._refusal is None):
            self._complain(UnreachableError(f"connection to {self._broker} lost", str(code)))
        if not self._resend:
            self._drop_unacked()
        if was_up:
            self._guard(self._on_connection, False)
        if flags.is_disconnect_packet_from_server and code.value == SESSION_TAKEN_OVER:
            client.disconnect()  # it does not come back
            self._guard(lambda _: self._on_taken_over(), None)
            return
        self._back_off()

    def _back_off(self) -> None:
        """Set when it is tried again."""
        delay = reconnect_delay_seconds(self._attempt, random.random())  # noqa: S311  no secret
        self._attempt += 1
        self._retry_after(delay)

    def _retry_after(self, seconds: float) -> None:
        """paho asks before each attempt."""
        self._client.reconnect_delay_set(seconds, seconds)  # type: ignore[arg-type]  # any number

    def _drop_unacked(self) -> None:
        self._client.drop_out_messages()
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
            if future is None:  # faster than `publish` could note it
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


def _password(broker: BrokerConfig) -> str | None:
    if not broker.password_file:
        return None
    try:
        return Path(broker.password_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EdgekitError("the broker's password cannot be read", str(error)) from error
