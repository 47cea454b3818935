"""Reason codes of MQTT 5 (§2.4) that decide something: what a PUBACK or a DISCONNECT says."""

from __future__ import annotations

NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80  # it, and those above
SESSION_TAKEN_OVER = 0x8E
QUOTA_EXCEEDED = 0x97
