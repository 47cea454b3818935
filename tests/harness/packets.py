"""MQTT 5 packets as bytes, right or wrong, from who is no client (§2, §3)."""

from __future__ import annotations


def number(value: int) -> bytes:
    """A Variable Byte Integer (§1.5.5)."""
    out = b""
    while True:
        value, digit = divmod(value, 128)
        out += bytes([digit | (0x80 if value else 0)])
        if not value:
            return out


def string(data: bytes) -> bytes:
    """A string or binary data with its length (§1.5.4, §1.5.6)."""
    return len(data).to_bytes(2, "big") + data


def packet(command: int, body: bytes) -> bytes:
    """A packet with its fixed header (§2.1)."""
    return bytes([command]) + number(len(body)) + body


def connect(client_id: bytes, *, username: bytes = b"") -> bytes:
    """CONNECT with Clean Start and a keepalive of a minute (§3.1)."""
    flags = 0x82 if username else 0x02
    fixed = string(b"MQTT") + bytes([5, flags, 0, 60, 0])
    return packet(0x10, fixed + string(client_id) + (string(username) if username else b""))


def publish(topic: bytes, payload: bytes, properties: bytes = b"", *, times: int = 1) -> bytes:
    """PUBLISH with QoS 0 and these properties, so many times over (§3.3)."""
    return packet(
        0x30, string(topic) + number(len(properties) * times) + properties * times + payload
    )
