"""The MQTT 5 reason codes (§2.4) of PUBACK and DISCONNECT to which edgekit reacts."""

from __future__ import annotations

NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80  # this code and all above it are failures
SESSION_TAKEN_OVER = 0x8E
QUOTA_EXCEEDED = 0x97
