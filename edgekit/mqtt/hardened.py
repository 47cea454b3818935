"""paho's client, hardened against bad packets; our own code reads and writes PUBLISH.

It overrides and calls private methods of paho, which may change in any release. `PRIVATE_METHODS`
and `PRIVATE_VALUES` name all of them, `pyproject.toml` pins paho to the version that has them, and
`tests/unit/test_paho.py` names each one that another version lacks.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from types import NoneType
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from edgekit.mqtt.packet import maximum_packet_size_at

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 2 << 20  # of received packets; Mosquitto 2.1 passes on no larger ones by default
LARGEST = (268_435_455).to_bytes(4, "big")  # packet of MQTT (§2.1.4)
OLD_CONNACK_BYTES = 2  # flags and return code; in MQTT 5 the length of the properties follows

# Of paho.mqtt.client.Client: each method with its signature, each value with its initial type.
PRIVATE_METHODS = {
    "_handle_connack": "(self) -> 'MQTTErrorCode'",
    "_handle_publish": "(self) -> 'MQTTErrorCode'",
    "_loop_rc_handle": "(self, rc: 'MQTTErrorCode') -> 'MQTTErrorCode'",
    "_packet_handle": "(self) -> 'MQTTErrorCode'",
    "_packet_read": "(self) -> 'MQTTErrorCode'",
    "_send_puback": "(self, mid: 'int') -> 'MQTTErrorCode'",
    "_sock_recv": "(self, bufsize: 'int') -> 'bytes'",
    "_sock_send": "(self, buf: 'bytes | bytearray') -> 'int'",
}
PRIVATE_VALUES: dict[str, type] = {
    "_in_packet": dict,  # with "command", an int, and "packet", a bytearray
    "_keepalive": int,
    "_manual_ack": bool,
    "_max_inflight_messages": int,
    "_sock": NoneType,  # or the socket
    "_ssl_context": NoneType,  # or the context; paho accepts a new one only while it is None
}


class EncodedProperties:
    """Encoded properties for paho's `publish`, which only calls `pack`."""

    def __init__(self, written: bytes) -> None:
        self._written = written

    def pack(self) -> bytes:
        """The bytes of the properties, after their length."""
        return self._written


class UnbreakableClient(paho.Client):
    """paho's client, made safe: no packet can kill its thread, block it or fill its memory.

    Every exception except MalformedPacket ends paho's network thread. Here a packet that cannot be
    read only ends the connection, and the client reconnects.

    Attributes:
        max_packet_bytes: the largest packet that the client receives, in bytes.
        on_publish_packet: called with the first byte and the body of each PUBLISH; returns the
            Packet Identifier, 0 with QoS 0. An exception in it ends the connection.
        on_old_connack: called with the return code of a CONNACK of MQTT 3.1.1.
    """

    max_packet_bytes = MAX_PACKET_BYTES
    on_publish_packet: Callable[[int, bytes], int]
    on_old_connack: Callable[[int], None]

    def renew_tls(self, context: ssl.SSLContext) -> None:
        """Set the TLS context of the next connection; paho's `tls_set_context` works only once."""
        self._ssl_context = None
        self.tls_set_context(context)

    def limit(self, *, keepalive_seconds: int, inflight_messages: int | None = None) -> None:
        """Set limits of a connection that paho's setters take only without one.

        Args:
            keepalive_seconds: how long the client may be silent.
            inflight_messages: how many messages may wait for a PUBACK; None: no change.
        """
        self._keepalive = keepalive_seconds
        if inflight_messages is not None:
            self._max_inflight_messages = inflight_messages

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read one packet; paho reads as many as it has sent without a PUBACK. The caller handles
        each packet before it reads more, which bounds the memory."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        code = self._packet_read()
        return self._loop_rc_handle(code) if code > 0 else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.max_packet_bytes:
            raise ConnectionError(f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except (BrokenPipeError, ConnectionResetError) as error:
            # Let the next read end the connection: the broker's DISCONNECT, which gives the reason,
            # may still be unread.
            raise BlockingIOError from error

    def _packet_handle(self) -> MQTTErrorCode:
        try:
            return super()._packet_handle()
        except Exception as error:
            log.warning("the broker sent a packet that cannot be read: %r", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _handle_connack(self) -> MQTTErrorCode:
        packet: Any = self._in_packet["packet"]
        if len(packet) == OLD_CONNACK_BYTES:
            self.on_old_connack(packet[1])
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        at = maximum_packet_size_at(packet)
        if at is not None and packet[at : at + 4] > LARGEST:
            packet[at : at + 4] = LARGEST  # paho takes no larger value, though the standard does
        return super()._handle_connack()

    def _handle_publish(self) -> MQTTErrorCode:
        packet: Any = self._in_packet
        mid = self.on_publish_packet(packet["command"], bytes(packet["packet"]))
        if mid and not self._manual_ack:
            return self._send_puback(mid)
        return MQTTErrorCode.MQTT_ERR_SUCCESS
