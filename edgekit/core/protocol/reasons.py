"""The MQTT 5 reason codes (§2.4) to which edgekit reacts."""

from __future__ import annotations

NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80  # this code and all above it are failures
UNSUPPORTED_PROTOCOL_VERSION = 0x84
CLIENT_IDENTIFIER_NOT_VALID = 0x85
BAD_USER_NAME_OR_PASSWORD = 0x86
NOT_AUTHORIZED = 0x87
SERVER_UNAVAILABLE = 0x88
SERVER_BUSY = 0x89
BANNED = 0x8A
BAD_AUTHENTICATION_METHOD = 0x8C
SESSION_TAKEN_OVER = 0x8E
TOPIC_NAME_INVALID = 0x90
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
USE_ANOTHER_SERVER = 0x9C
SERVER_MOVED = 0x9D
SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
CONNECTION_RATE_EXCEEDED = 0x9F
WILDCARDS_NOT_SUPPORTED = 0xA2

# What a PUBACK may say (§3.4.2.1)
PUBACK_NAMES = {
    0x80: "Unspecified error",
    0x83: "Implementation specific error",
    NOT_AUTHORIZED: "Not authorized",
    TOPIC_NAME_INVALID: "Topic Name invalid",
    0x91: "Packet identifier in use",
    PACKET_TOO_LARGE: "Packet too large",
    QUOTA_EXCEEDED: "Quota exceeded",
    0x99: "Payload format invalid",
}
