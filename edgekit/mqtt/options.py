"""The options of an MQTT client, which both drivers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict

from edgekit.core.protocol.wire import Inbound, Outbound


class ClientOptions(TypedDict):
    """Options of a client. The driver decides on which thread callbacks run; it logs exceptions."""

    subscriptions: Sequence[tuple[str, int]]
    """(filter, QoS) pairs, subscribed after every CONNACK."""
    on_message: Callable[[Inbound], None]
    """Called for each message."""
    on_connection: NotRequired[Callable[[bool], None]]
    """Called with True when subscribed, with False when the connection is lost."""
    on_taken_over: NotRequired[Callable[[], None]]
    """Called when the broker reports that another client uses our id (§3.14.2.1, 0x8E); this
    client then does not reconnect."""
    will: NotRequired[Outbound | None]
    """Published by the broker when this client vanishes (§3.1.2.5)."""
    will_delay_seconds: NotRequired[int]
    """Seconds that the broker waits for a reconnect before it publishes the Will. Default: 0."""
    manual_ack: NotRequired[bool]
    """Whether PUBACK waits for `ack`. Default: no."""
    resend: NotRequired[bool]
    """Whether the next connection sends messages again that still wait for a PUBACK. Default: yes.
    If not, their futures get `LOST`, and the caller keeps the messages."""
    max_packet_bytes: NotRequired[int]
    """The largest packet to receive, as CONNECT says (§3.1.2.11.4). Default: `MAX_PACKET_BYTES`."""
    retained: NotRequired[bool]
    """Whether the client needs a broker that keeps retained messages. Default: if its Will is."""
