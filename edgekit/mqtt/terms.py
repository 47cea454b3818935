"""What a broker grants in its CONNACK (§3.2.2.3), and why it refuses, in plain words. Pure.

§2.4 lists the reason codes. The words name mosquitto.conf(5), as most brokers at hand are
Mosquitto; docs/protocol/broker.md has the whole list of what a broker must do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgekit.core.protocol.reasons import (
    BAD_AUTHENTICATION_METHOD,
    BAD_USER_NAME_OR_PASSWORD,
    BANNED,
    CLIENT_IDENTIFIER_NOT_VALID,
    CONNECTION_RATE_EXCEEDED,
    NOT_AUTHORIZED,
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    QUOTA_EXCEEDED,
    RETAIN_NOT_SUPPORTED,
    SERVER_BUSY,
    SERVER_MOVED,
    SERVER_UNAVAILABLE,
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED,
    TOPIC_NAME_INVALID,
    UNSUPPORTED_PROTOCOL_VERSION,
    USE_ANOTHER_SERVER,
    WILDCARDS_NOT_SUPPORTED,
)
from edgekit.errors import EdgekitError

NO_PACKET_LIMIT = 268_435_455  # MQTT's own (§2.1.4): a broker that says so or more sets none
NO_INFLIGHT_LIMIT = 0xFFFF
PAGE = "docs/protocol/broker.md says what a broker must do"
SHARED = "$share/"

_CREDENTIALS = "check the credentials in [broker]: username and password_file, or cert_file"
_WAIT = "it may be overloaded; edgekit goes on trying"
# By reason code: what the broker does, and the next step. A code that is missing here is named.
_WORDS = {
    UNSUPPORTED_PROTOCOL_VERSION: (
        "does not speak MQTT 5",
        "take a broker of MQTT 5, such as Mosquitto 1.6 or later, or turn MQTT 5 on there",
    ),
    BAD_USER_NAME_OR_PASSWORD: ("refused", _CREDENTIALS),
    NOT_AUTHORIZED: ("refused", _CREDENTIALS),
    BAD_AUTHENTICATION_METHOD: ("refused", _CREDENTIALS),
    CLIENT_IDENTIFIER_NOT_VALID: (
        "refuses our client identifier",
        "let it take identifiers that begin with `edgekit-`",
    ),
    BANNED: ("has banned this client", "ask its administrator"),
    TOPIC_NAME_INVALID: ("refuses the topic of our Will", "let it take topics below edgekit/v1"),
    SERVER_UNAVAILABLE: ("is not available", _WAIT),
    SERVER_BUSY: ("is busy", _WAIT),
    QUOTA_EXCEEDED: ("has no room for this client", _WAIT),
    CONNECTION_RATE_EXCEEDED: ("gets too many connections", _WAIT),
    PACKET_TOO_LARGE: (
        "ended the connection for a packet that is too large",
        "raise max_packet_size in mosquitto.conf",
    ),
    RETAIN_NOT_SUPPORTED: (
        "keeps no retained messages",
        "a device's card and status are retained: set retain_available true in mosquitto.conf",
    ),
    QOS_NOT_SUPPORTED: (
        "does not take messages with QoS 1",
        "every prompt and answer has QoS 1: set max_qos to 1 or 2 in mosquitto.conf",
    ),
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: (
        "has no shared subscriptions",
        "leave `pools` out, or take a broker that has them",
    ),
    WILDCARDS_NOT_SUPPORTED: (
        "takes no wildcards in subscriptions",
        "edgekit subscribes with + and #: take a broker that has them",
    ),
    USE_ANOTHER_SERVER: ("sends us to another broker", "set host and port in [broker] to that one"),
    SERVER_MOVED: ("has moved", "set host and port in [broker] to the new one"),
}


class BrokerTerms(msgspec.Struct, frozen=True):
    """The limits of one connection, as its CONNACK says; the defaults are those of §3.2.2.3.

    Attributes:
        max_packet_bytes: the largest packet that the broker takes (§3.2.2.3.6).
        receive_maximum: messages of QoS 1 that may wait for their PUBACK (§3.2.2.3.3).
        max_qos: of messages to the broker (§3.2.2.3.4).
        retained: the broker keeps retained messages (§3.2.2.3.5).
        wildcards: filters may have wildcards (§3.2.2.3.11).
        shared: filters may begin with `$share` (§3.2.2.3.13).
        keepalive_seconds: replaces the client's (§3.2.2.3.14); None where it does not.
        client_id: replaces the client's (§3.2.2.3.7); empty where it does not.
        session_seconds: how long a session outlives its connection (§3.2.2.3.2).
    """

    max_packet_bytes: int = NO_PACKET_LIMIT
    receive_maximum: int = NO_INFLIGHT_LIMIT
    max_qos: int = 2
    retained: bool = True
    wildcards: bool = True
    shared: bool = True
    keepalive_seconds: int | None = None
    client_id: str = ""
    session_seconds: int = 0  # as CONNECT asks for

    def keepalive(self, own_seconds: int) -> int:
        """Return after how many seconds of silence the client pings.

        It may ping more often than the broker asks for, and pings where the broker asks for none: a
        dead connection must be noticed.
        """
        return min(own_seconds, self.keepalive_seconds or own_seconds)

    def lack(self, *, retains: bool, filters: Sequence[str]) -> int:
        """Return the reason code of what the client needs and the broker does not have, or 0.

        Args:
            retains: whether the client publishes or reads retained messages.
            filters: its subscriptions. One that is shared is no need: `served` leaves it out.
        """
        if self.max_qos < 1:
            return QOS_NOT_SUPPORTED
        if retains and not self.retained:
            return RETAIN_NOT_SUPPORTED
        if not self.wildcards and any(c in f for f in filters for c in "+#"):
            return WILDCARDS_NOT_SUPPORTED
        return 0

    def served(self, filters: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the filters (with their QoS) that the client may subscribe to here."""
        return [(f, qos) for f, qos in filters if self.shared or not f.startswith(SHARED)]


def read_terms(properties: Any) -> BrokerTerms:
    """Read the properties of a CONNACK; paho's `Properties` has an attribute for each one."""

    def given(name: str, default: Any) -> Any:
        return getattr(properties, name, default)

    return BrokerTerms(
        max_packet_bytes=given("MaximumPacketSize", NO_PACKET_LIMIT),
        receive_maximum=given("ReceiveMaximum", NO_INFLIGHT_LIMIT),
        max_qos=given("MaximumQoS", 2),
        retained=bool(given("RetainAvailable", 1)),
        wildcards=bool(given("WildcardSubscriptionAvailable", 1)),
        shared=bool(given("SharedSubscriptionAvailable", 1)),
        keepalive_seconds=given("ServerKeepAlive", None),
        client_id=given("AssignedClientIdentifier", ""),
        session_seconds=given("SessionExpiryInterval", 0),
    )


def explain_code(broker: object, code: int, name: str, properties: Any = None) -> EdgekitError:
    """Explain a reason code with which the broker refuses us or ends the connection.

    Args:
        broker: its address.
        code: of CONNACK, SUBACK or DISCONNECT.
        name: the code's name in the standard.
        properties: of the same packet; may hold a Reason String and a Server Reference.
    """
    said = getattr(properties, "ReasonString", "")
    reference = getattr(properties, "ServerReference", "")
    why = f"{name} (0x{code:02X})" + (f": {said}" if said else "")
    if reference:
        why += f"; the other one is {reference}"
    what, next_step = _WORDS.get(code, ("refused", PAGE))
    return EdgekitError(f"the broker at {broker} {what}", why, next_step)


def is_explained(code: int) -> bool:
    """Whether there are words of our own for a reason code."""
    return code in _WORDS


def explain_lack(broker: object, code: int) -> EdgekitError:
    """Explain what the broker's CONNACK says that it does not have; `code` is that of `lack`."""
    what, next_step = _WORDS[code]
    return EdgekitError(f"the broker at {broker} {what}", "its CONNACK says it", next_step)
