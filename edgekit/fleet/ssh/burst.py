"""Sends many packets of a channel at once: what a transfer needs and paramiko has not.

paramiko writes each packet of 32 KiB by itself. With twenty channels in one process, its threads
take turns at Python's lock several times for each packet, which costs more than the encryption.
Here one turn encrypts a burst of packets into one buffer and writes that (`docs/adr/0030`). Only
AES-GCM has this way. The packets are those of RFC 4253, section 6, and RFC 5647. Each burst is
answered by a small packet, which allows more bytes: many of those are read at once.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from typing import Any

from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import Packetizer

_HEAD = struct.Struct(">IBBII")  # packet length, padding length, message, channel, data length
_CLEAR = 4  # bytes of the packet length: authenticated, not encrypted
_TAG = 16
_BLOCK = 16
_LEAST_PADDING = 4
_COUNTER = struct.Struct(">Q")
_READ_BYTES = 1 << 15


@dataclass(frozen=True)
class Burst:
    """Data of one channel, as it goes into packets: takes the place of one message of paramiko."""

    channel: int  # the peer's number of it
    data: memoryview
    most: int  # bytes of data in one packet


class _ReadAhead:
    """A socket that is read with few calls: paramiko makes four for each small packet."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._came: bytes = b""
        self.send = sock.send
        self.close = sock.close

    def recv(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        came = self._came or self._sock.recv(_READ_BYTES)
        self._came = came[count:]
        return came[:count]


class BurstPacketizer(Packetizer):  # type: ignore[misc]  # paramiko has no types
    """A packetizer that also sends bursts; with any other cipher it is paramiko's own."""

    REKEY_BYTES = 10**9  # as RFC 4253, section 9, has it

    def __init__(self, sock: Any) -> None:
        super().__init__(_ReadAhead(sock))
        self._turn = threading.Lock()
        self._gcm: Any = None
        self._compress: Any = None
        self._fixed, self._counter = b"", 0  # the two fields of the next nonce
        self._sent_bytes = self._sent_packets = 0  # with these keys
        self._plain, self._sealed = memoryview(bytearray()), memoryview(bytearray())

    def set_outbound_cipher(self, block_engine: Any, *args: Any, **kwargs: Any) -> None:
        """Take new keys; a GCM's nonce is counted here from now on."""
        super().set_outbound_cipher(block_engine, *args, **kwargs)
        self._gcm = block_engine if kwargs.get("aead") else None
        self._sent_bytes = self._sent_packets = 0
        if self._gcm is not None:
            nonce = kwargs["iv_out"]
            self._fixed, (self._counter,) = nonce[:4], _COUNTER.unpack(nonce[4:])

    def set_outbound_compressor(self, compressor: Any) -> None:
        """Compress what is sent; edgekit asks for none."""
        super().set_outbound_compressor(compressor)
        self._compress = compressor

    def can_burst(self) -> bool:
        """Whether a `Burst` may be sent in place of messages."""
        return self._gcm is not None and self._compress is None

    def send_message(self, data: Any) -> None:
        """Send a message of paramiko, or a `Burst`."""
        if self._gcm is None:
            super().send_message(data)
            return
        with self._turn:
            if isinstance(data, Burst):
                self.write_all(self._seal(data))
            else:
                text = data.asbytes()
                packet = self._build_packet(self._compress(text) if self._compress else text)
                clear, rest = packet[:_CLEAR], packet[_CLEAR:]
                self.write_all(clear + self._gcm.encrypt(self._nonce(), rest, clear))
                self._sent_bytes += len(packet)
                self._sent_packets += 1
            if self._sent_packets >= self.REKEY_PACKETS or self._sent_bytes >= self.REKEY_BYTES:
                self._trigger_rekey()

    def _seal(self, burst: Burst) -> memoryview:
        """The packets of a burst, one behind the other."""
        around = _HEAD.size + _LEAST_PADDING + _BLOCK + _TAG
        count = -(-len(burst.data) // burst.most)
        if len(self._plain) < burst.most + around:
            self._plain = memoryview(bytearray(burst.most + around))
        if len(self._sealed) < count * (burst.most + around):
            self._sealed = memoryview(bytearray(count * (burst.most + around)))
        at = length = 0
        for begin in range(0, len(burst.data), burst.most):
            piece = burst.data[begin : begin + burst.most]
            if len(piece) != length:  # the first packet, and a shorter last one
                length = len(piece)
                packet = self._plain[: self._lay_out(burst.channel, length)]
                clear, hidden = bytes(packet[:_CLEAR]), packet[_CLEAR:]
                data = packet[_HEAD.size : _HEAD.size + length]
            data[:] = piece
            sealed = self._sealed[at : at + len(packet) + _TAG]
            sealed[:_CLEAR] = clear
            self._gcm.encrypt_into(self._nonce(), hidden, clear, sealed[_CLEAR:])
            at += len(sealed)
        self._sent_bytes += at
        self._sent_packets += count
        return self._sealed[:at]

    def _lay_out(self, channel: int, length: int) -> int:
        """Write head and padding of a packet with so much data; bytes of the whole packet."""
        size = _HEAD.size - _CLEAR + length
        padding = _BLOCK - size % _BLOCK
        padding += _BLOCK if padding < _LEAST_PADDING else 0
        head = _HEAD.pack(size + padding, padding, MSG_CHANNEL_DATA, channel, length)
        self._plain[: _HEAD.size] = head
        self._plain[_CLEAR + size :][:padding] = os.urandom(padding)
        return _CLEAR + size + padding

    def _nonce(self) -> bytes:
        """The next nonce: the invocation counter grows by one for each packet (RFC 5647, 7.1)."""
        nonce = self._fixed + _COUNTER.pack(self._counter)
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        return nonce


def send_burst(channel: Any, data: memoryview) -> int:
    """Send as much of `data` over a channel of paramiko as its window takes; waits for some.

    Returns:
        How many bytes left; 0 if the channel is closed.

    Raises:
        TimeoutError: the window stayed closed for the channel's timeout.
    """
    transport = channel.transport
    if not transport.packetizer.can_burst():
        return int(channel.send(data))
    with channel.lock:
        most = channel._wait_for_send_window(len(data))  # of the first packet
        more = min(len(data) - most, channel.out_window_size) if most else 0
        channel.out_window_size -= more
    if most:
        # Without the lock, as paramiko: a change of keys may want it
        transport._send_user_message(Burst(channel.remote_chanid, data[: most + more], most))
    return int(most + more)
