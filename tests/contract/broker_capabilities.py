"""What each broker does and does not do, as measured by `test_broker.py` on every run.

Where the embedded broker falls short of MQTT 5, edgekit does without: the line says what follows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BrokerCapabilities:
    """Sections are those of the OASIS MQTT 5.0 standard."""

    # §3.4.2.1: PUBACK 0x10 when nobody has subscribed. Without it a prompt to a device that is not
    # there is noticed only by the missing first reply.
    puback_no_subscribers: bool
    # §3.1.2.5: the Will, retained, once the connection is gone without DISCONNECT.
    will_after_kill: bool
    # §3.1.3.2.2: the Will waits for its client to come back. Without it a device is said to be lost
    # each time its connection breaks. (With Session Expiry 0 the standard ends the wait at once;
    # Mosquitto waits all the same.)
    will_delay: bool
    # §3.3.2.3: Response Topic, Correlation Data, Content Type and User Properties in their order.
    properties: bool
    # §3.8.4: delivered with the lower QoS of message and subscription. Without it a delta that was
    # sent with QoS 0 costs a PUBACK.
    lower_qos: bool
    # §3.3.1.3: the last retained message, at every subscription.
    retained: bool
    # A prompt of the protocol's largest size, with pictures, and its properties.
    payload_768_kib: bool
    # §3.3.2.3.3: Message Expiry arrives less the time it waited in the broker. Without it a device
    # gives a prompt that waited there more time than its requester does.
    expiry_decremented: bool
    # §3.1.2.11.2: messages for a session whose client is away. Without it finals that are published
    # while a requester reconnects are lost to it.
    persistent_session: bool
    # §3.1.2.11.2: Session Expiry 0 ends it with the connection. Without it only Clean Start does,
    # which is what edgekit's client always asks for.
    session_expiry: bool
    # §3.1.4: DISCONNECT 0x8E to the older of two connections with one Client Identifier. Without it
    # two devices of one name take the connection from each other and neither is told why.
    disconnect_on_takeover: bool


BROKERS = {
    "mosquitto": BrokerCapabilities(  # 2.0.11, as Debian 12 has it
        puback_no_subscribers=True,
        will_after_kill=True,
        will_delay=True,
        properties=True,
        lower_qos=True,
        retained=True,
        payload_768_kib=True,
        expiry_decremented=True,
        persistent_session=True,
        session_expiry=True,
        disconnect_on_takeover=False,
    ),
    "embedded": BrokerCapabilities(  # iotcore 0.4.0
        puback_no_subscribers=False,
        will_after_kill=True,
        will_delay=False,
        properties=True,
        lower_qos=False,
        retained=True,
        payload_768_kib=True,
        expiry_decremented=True,
        persistent_session=True,
        session_expiry=False,
        disconnect_on_takeover=False,
    ),
}
