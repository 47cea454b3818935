"""paho's client, hardened against what a broker passes on; PUBLISH is read and written by ours.

It overrides and calls methods of paho that no release promises to keep. `PRIVATE_METHODS` and
`PRIVATE_VALUES` name all of them, `pyproject.toml` pins paho to the version that has them, and
`tests/unit/test_paho.py` fails by name where another version lacks one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from types import NoneType
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 2 << 20  # that come; Mosquitto 2.1 by default passes on no larger ones

# of paho.mqtt.client.Client: each method with its signature, each value with its type when new
PRIVATE_METHODS = {
    "_handle_publish": "(self) -> 'MQTTErrorCode'",
    "_loop_rc_handle": "(self, rc: 'MQTTErrorCode') -> 'MQTTErrorCode'",
    "_packet_handle": "(self) -> 'MQTTErrorCode'",
    "_packet_read": "(self) -> 'MQTTErrorCode'",
    "_send_puback": "(self, mid: 'int') -> 'MQTTErrorCode'",
    "_sock_recv": "(self, bufsize: 'int') -> 'bytes'",
    "_sock_send": "(self, buf: 'bytes | bytearray') -> 'int'",
}
PRIVATE_VALUES: dict[str, type] = {
    "_in_packet": dict,  # of "command", an int, and "packet", a bytearray
    "_manual_ack": bool,
    "_sock": NoneType,  # or the socket
    "_ssl_context": NoneType,  # or the context; paho takes a new one only where it is None
}


class EncodedProperties:
    """Properties as paho's `publish` wants them, which only ever asks for their bytes."""

    def __init__(self, written: bytes) -> None:
        self._written = written

    def pack(self) -> bytes:
        """With their length before them."""
        return self._written


class UnbreakableClient(paho.Client):
    """paho's, which no packet ends, holds up or fills.

    paho's network thread ends with every exception but its MalformedPacket. Here whatever cannot
    be read ends the connection, which comes back.

    Attributes:
        max_packet_bytes: of what comes.
        on_publish_packet: called with the first byte and the body of each PUBLISH; what it raises
            ends the connection. Returns the Packet Identifier, 0 with QoS 0.
    """

    max_packet_bytes = MAX_PACKET_BYTES
    on_publish_packet: Callable[[int, bytes], int]

    def renew_tls(self, context: ssl.SSLContext) -> None:
        """As `tls_set_context`, which paho takes once; for the next connection."""
        self._ssl_context = None
        self.tls_set_context(context)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read one packet, where paho reads as many as it has sent without a PUBACK: what comes is
        dealt with before more is read, so that it is bounded."""
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
            # Reading ends the connection: the broker's DISCONNECT, which says why, may be unread.
            raise BlockingIOError from error

    def _packet_handle(self) -> MQTTErrorCode:
        try:
            return super()._packet_handle()
        except Exception as error:
            log.warning("the broker sent what cannot be read: %r", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _handle_publish(self) -> MQTTErrorCode:
        packet: Any = self._in_packet
        mid = self.on_publish_packet(packet["command"], bytes(packet["packet"]))
        if mid and not self._manual_ack:
            return self._send_puback(mid)
        return MQTTErrorCode.MQTT_ERR_SUCCESS
