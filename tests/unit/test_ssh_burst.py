"""Bursts of packets, read back by paramiko's own packetizer."""

from __future__ import annotations

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.message import Message
from paramiko.packet import Packetizer

from edgekit.fleet.ssh.burst import Burst, BurstPacketizer

LENGTHS = [*range(1, 40), (1 << 15) - 64]


class Wire:
    """What one end wrote, for the other to read."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reads = 0

    def send(self, data: Any) -> int:
        self.data += data
        return len(data)

    def recv(self, count: int) -> bytes:
        self.reads += 1
        taken, self.data = bytes(self.data[:count]), self.data[count:]
        return taken

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def ends(nonce: bytes) -> tuple[BurstPacketizer, Packetizer]:
    wire, key = Wire(), AESGCM(os.urandom(32))
    writes, reads = BurstPacketizer(wire), Packetizer(wire)
    writes.set_outbound_cipher(key, 16, None, 16, None, aead=True, iv_out=nonce)
    reads.set_inbound_cipher(key, 16, None, 16, None, aead=True, iv_in=nonce)
    return writes, reads


def text(content: bytes) -> Message:
    message = Message()
    message.add_byte(bytes([98]))
    message.add_string(content)
    return message


def taken(reads: Packetizer) -> tuple[int, bytes]:
    kind, message = reads.read_message()
    if kind == MSG_CHANNEL_DATA:
        assert message.get_int() == 7
    data = message.get_string()
    assert not message.get_remainder()
    return kind, data


@pytest.mark.parametrize("nonce", [bytes(12), b"fix\0" + bytes(6) + b"\xff\xfe"])
def test_paramiko_reads_bursts_and_messages_between_them(nonce: bytes) -> None:
    writes, reads = ends(nonce)
    for length in LENGTHS:
        data = memoryview(os.urandom(3 * length + length // 2))
        pieces = [bytes(data[at : at + length]) for at in range(0, len(data), length)]
        writes.send_message(text(b"before"))
        writes.send_message(Burst(7, data, length))
        assert taken(reads) == (98, b"before")
        assert [taken(reads) for _ in pieces] == [(MSG_CHANNEL_DATA, piece) for piece in pieces]


def test_bursts_count_toward_new_keys() -> None:
    writes, _ = ends(bytes(12))
    writes.REKEY_BYTES = 100_000
    writes.send_message(Burst(7, memoryview(bytes(96_000)), 32_000))
    assert not writes.need_rekey()
    writes.send_message(Burst(7, memoryview(bytes(32_000)), 32_000))
    assert writes.need_rekey()


def test_with_another_cipher_nothing_bursts() -> None:
    writes = BurstPacketizer(Wire())
    assert not writes.can_burst()
    writes.send_message(text(b"clear"))


def test_many_small_packets_are_read_by_one_call() -> None:
    wire, key = Wire(), AESGCM(os.urandom(32))
    writes, reads = BurstPacketizer(wire), BurstPacketizer(wire)
    writes.set_outbound_cipher(key, 16, None, 16, None, aead=True, iv_out=bytes(12))
    reads.set_inbound_cipher(key, 16, None, 16, None, aead=True, iv_in=bytes(12))
    for number in range(100):
        writes.send_message(text(b"%d" % number))
    assert [taken(reads) for _ in range(100)] == [(98, b"%d" % number) for number in range(100)]
    assert wire.reads == 1
