"""What a client is for: the same for both drivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict

from edgekit.core.wire import Inbound, Outbound


class ClientOptions(TypedDict):
    """Each callback runs where the driver runs it; an exception in one is logged."""

    subscriptions: Sequence[tuple[str, int]]
    """(filter, QoS) pairs, subscribed after every CONNACK."""
    on_message: Callable[[Inbound], None]
    """Called for each message."""
    on_connection: NotRequired[Callable[[bool], None]]
    """Called with True once subscribed, False when the connection is lost."""
    on_taken_over: NotRequired[Callable[[], None]]
    """Called when the broker says that another client has our id (§3.14.2.1, 0x8E); this one then
    does not come back."""
    will: NotRequired[Outbound | None]
    """Published by the broker when this client vanishes (§3.1.2.5)."""
    will_delay_seconds: NotRequired[int]
    """How long the broker waits with the Will, for the client to come back. Default: 0."""
    manual_ack: NotRequired[bool]
    """Whether PUBACK waits for `ack`. Default: no."""
    resend: NotRequired[bool]
    """Whether messages that wait for a PUBACK when the connection is lost are sent again on the
    next one, as is the default; if not, they are `LOST`, and the caller has them still."""
    max_packet_bytes: NotRequired[int]
    """Of what comes; the broker is told (§3.1.2.11.4). Default: `MAX_PACKET_BYTES`."""
