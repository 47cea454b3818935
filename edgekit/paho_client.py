"""paho's messages from and to ours, and its client, hardened against what a broker passes on."""

from __future__ import annotations

import logging
from contextlib import suppress

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgekit.core.packet import MAX_PROPERTY_BYTES, is_publish, without_properties
from edgekit.core.wire import JSON, Inbound, Outbound

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = 2 << 20  # that come; Mosquitto 2.1 by default passes on no larger ones


def properties_of(message: Outbound) -> Properties:
    """What a message says beside its payload, as paho has it (§3.3.2.3)."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's own
    if message.content_type:
        properties.ContentType = message.content_type
        properties.PayloadFormatIndicator = int(message.content_type == JSON)
    if message.response_topic:
        properties.ResponseTopic = message.response_topic
    if message.correlation:
        properties.CorrelationData = message.correlation
    if message.expiry_seconds is not None:
        properties.MessageExpiryInterval = message.expiry_seconds
    if message.user:
        properties.UserProperty = list(message.user)
    return properties


def inbound_of(message: paho.MQTTMessage, epoch: int) -> Inbound:
    """A message of paho's, which came on the connection of this number."""
    properties = message.properties
    return Inbound(
        topic=message.topic,
        payload=bytes(message.payload),
        qos=message.qos,
        retain=message.retain,
        response_topic=getattr(properties, "ResponseTopic", ""),
        correlation=getattr(properties, "CorrelationData", b""),
        expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
        content_type=getattr(properties, "ContentType", ""),
        user=tuple(getattr(properties, "UserProperty", ())),
        token=(epoch, message.mid, message.qos),
    )


class UnbreakableClient(paho.Client):
    """paho's, which no packet ends, holds up or fills.

    paho's network thread ends with every exception but its MalformedPacket; it reads properties in
    quadratic time (128 KiB of them in 1 s, all threads standing still) and refuses strings that a
    broker passes on (U+FEFF). A PUBLISH that it shall not or cannot read loses its properties and
    its payload: then it is answered by nobody, but has its PUBACK. Anything else that cannot be
    read ends the connection, which comes back.
    """

    max_packet_bytes = MAX_PACKET_BYTES

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.max_packet_bytes:
            raise ConnectionError(f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)

    def _packet_handle(self) -> MQTTErrorCode:
        packet = self._in_packet
        try:
            if is_publish(packet["command"]):
                bare, property_bytes = without_properties(packet["command"], packet["packet"])
                if property_bytes <= MAX_PROPERTY_BYTES:
                    with suppress(Exception):
                        return super()._packet_handle()
                packet["packet"] = bytearray(bare)
            return super()._packet_handle()
        except Exception as error:
            log.warning("the broker sent what cannot be read: %r", error)
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
