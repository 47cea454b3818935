"""Sends many packets of a channel at once: what a transfer needs and paramiko has not.

paramiko writes each packet of 32 KiB by itself. With twenty channels in one process, its threads
take turns at Python's lock several times for each packet, which costs more than the encryption.
Here one turn encrypts a burst of packets into one buffer and writes that (`docs/adr/0030`). Only
AES-GCM has this way. The packets are those of RFC 4253, section 6, and RFC 5647.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Burst:
    """Data of one channel, as it goes into packets: takes the place of one message of paramiko."""

    channel: int  # the peer's number of it
    pieces: Sequence[memoryview]


class BurstPacketizer(Packetizer):  # type: ignore[misc]  # paramiko has no types
    """A packetizer that also sends bursts; with any other cipher it is paramiko's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
                self._count(len(packet))
            if self._sent_packets >= self.REKEY_PACKETS or self._sent_bytes >= self.REKEY_BYTES:
                self._trigger_rekey()

    def _seal(self, burst: Burst) -> memoryview:
        """The packets of a burst, one behind the other."""
        around = _HEAD.size + _LEAST_PADDING + _BLOCK + _TAG
        largest = max(map(len, burst.pieces)) + around
        if len(self._plain) < largest:
            self._plain = memoryview(bytearray(largest))
        if len(self._sealed) < largest * len(burst.pieces):
            self._sealed = memoryview(bytearray(largest * len(burst.pieces)))
        random = os.urandom(_LEAST_PADDING + _BLOCK)
        at = 0
        for piece in burst.pieces:
            size = _HEAD.size - _CLEAR + len(piece)
            padding = _BLOCK - size % _BLOCK
            padding += _BLOCK if padding < _LEAST_PADDING else 0
            head = _HEAD.pack(size + padding, padding, MSG_CHANNEL_DATA, burst.channel, len(piece))
            packet = self._plain[: _CLEAR + size + padding]
            packet[: _HEAD.size] = head
            packet[_HEAD.size : _CLEAR + size] = piece
            packet[_CLEAR + size :] = random[:padding]
            sealed = self._sealed[at : at + len(packet) + _TAG]
            sealed[:_CLEAR] = head[:_CLEAR]
            self._gcm.encrypt_into(self._nonce(), packet[_CLEAR:], head[:_CLEAR], sealed[_CLEAR:])
            self._count(len(packet))
            at += len(sealed)
        return self._sealed[:at]

    def _nonce(self) -> bytes:
        """The next nonce: the invocation counter grows by one for each packet (RFC 5647, 7.1)."""
        nonce = self._fixed + _COUNTER.pack(self._counter)
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        return nonce

    def _count(self, size: int) -> None:
        self._sent_bytes += size
        self._sent_packets += 1


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
    pieces: list[memoryview] = []
    done = 0
    with channel.lock:
        while done < len(data) and (not pieces or channel.out_window_size):
            size = channel._wait_for_send_window(len(data) - done)
            if not size:
                break
            pieces.append(data[done : done + size])
            done += size
    if pieces:
        # Without the lock, as paramiko: a change of keys may want it
        transport._send_user_message(Burst(channel.remote_chanid, pieces))
    return done
