"""PUBLISH packets of MQTT 5, as far as they are looked at before paho reads them (§3.3)."""

from __future__ import annotations

PUBLISH = 0x30
MAX_PROPERTY_BYTES = 8 * 1024  # of one PUBLISH; a prompt's are some hundred


def is_publish(command: int) -> bool:
    """Whether a fixed header's first byte begins a PUBLISH (§2.1.2)."""
    return command & 0xF0 == PUBLISH


def without_properties(command: int, body: bytes | bytearray) -> tuple[bytes, int]:
    """A PUBLISH without its properties and payload, and the length of those properties.

    Args:
        command: the fixed header's first byte.
        body: what follows its Remaining Length.

    Raises:
        ValueError: it is cut short, or has a QoS that nobody here subscribes with.
    """
    qos = (command & 0x06) >> 1
    if qos > 1:
        raise ValueError(f"a PUBLISH with QoS {qos}")
    end = 2 + int.from_bytes(body[:2], "big") + 2 * qos
    length = 0
    for shift in range(0, 28, 7):  # a Variable Byte Integer (§1.5.5)
        at = end + shift // 7
        if at >= len(body):
            break
        length |= (body[at] & 0x7F) << shift
        if body[at] < 0x80:
            return bytes(body[:end]) + b"\0", length
    raise ValueError("a PUBLISH that is cut short")
