"""Answers a device that pulls blobs: HTTP ranges of the blobs that one transfer listed.

Anything on a device's loopback may connect. Only who has the token of this transfer is answered;
everybody else learns that, and nothing more.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Protocol

from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.values import WantedBlob

PACKET_BYTES = (1 << 15) - 64  # of data in an SSH packet for a channel of OpenSSH
PIECE_BYTES = 8 * PACKET_BYTES  # one call sends: the next message of the connection waits for it
HEAD_BYTES = 4096  # of a request; ours have 200
STRANGER_SECONDS = 10.0  # until the first request is there
IDLE_SECONDS = 60.0  # between two requests, and for a client that takes no bytes

_REQUEST = re.compile(r"GET /blobs/(sha256:[0-9a-f]{64}) HTTP/1\.1")
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")
_REASONS = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 416: "Range Not Satisfiable"}


class Stream(Protocol):
    """A connection: a channel of paramiko, or a socket."""

    def recv(self, count: int, /) -> bytes:
        """Bytes that came; none at the end."""
        ...

    def send(self, data: memoryview, /) -> int:
        """Send some of the bytes; how many."""
        ...

    def settimeout(self, seconds: float, /) -> None:
        """The longest that one of both may take."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class BrokenError(Exception):
    """The connection is of no use any more."""


class BlobSource:
    """The blobs of one transfer.

    Args:
        blobs: what the device may pull, and nothing else.
        token: the bearer token of this transfer.
        cap: how fast bytes may leave.
        progress: called with the number of bytes that left, by several threads in turn.
    """

    def __init__(
        self,
        blobs: Sequence[WantedBlob],
        token: str,
        cap: Cap,
        progress: Callable[[int], None],
    ) -> None:
        self._blobs = {str(blob.digest): blob for blob in blobs}
        self._token = token.encode()
        self._cap = cap
        self._progress = progress
        self._counting = threading.Lock()
        self.sent = 0  # bytes of blobs that left, those that left twice included

    def serve(self, stream: Stream) -> None:
        """Answer the requests of one connection until it ends; nothing is raised."""
        with suppress(BrokenError, OSError, EOFError):
            rest, seconds = b"", STRANGER_SECONDS
            buffer = memoryview(b"")
            while True:
                head, rest = _head(stream, rest, seconds)
                blob, first, last = self._asked(stream, head)
                buffer = buffer or memoryview(bytearray(PIECE_BYTES))  # not for a stranger
                self._send(stream, blob, first, last, buffer)
                seconds = IDLE_SECONDS
        with suppress(OSError, EOFError):
            stream.close()

    def _asked(self, stream: Stream, head: bytes) -> tuple[WantedBlob, int, int]:
        """The blob that a request names, and its first and last byte; others are refused."""
        request, *lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        told = fields.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(told, b"Bearer " + self._token):
            _refuse(stream, 401)
        found = _REQUEST.fullmatch(request)
        blob = self._blobs.get(found[1]) if found else None
        if blob is None:
            _refuse(stream, 404)
        asked = _RANGE.fullmatch(fields.get("range", ""))
        if asked is None:
            _refuse(stream, 400)
        first, last = int(asked[1]), int(asked[2])
        if not first <= last < blob.size:
            _refuse(stream, 416)
        return blob, first, last

    def _send(
        self, stream: Stream, blob: WantedBlob, first: int, last: int, buffer: memoryview
    ) -> None:
        descriptor = os.open(blob.source, os.O_RDONLY)
        stream.settimeout(IDLE_SECONDS)
        try:
            head = (
                "HTTP/1.1 206 Partial Content\r\n"
                f"Content-Range: bytes {first}-{last}/{blob.size}\r\n"
                f"Content-Length: {last + 1 - first}\r\n\r\n"
            )
            at, begin = first, len(head)  # the first bytes leave with the head
            buffer[:begin] = head.encode()
            while at <= last:
                size = os.preadv(descriptor, [buffer[begin : begin + last + 1 - at]], at)
                if not size:
                    raise BrokenError  # our file was cut meanwhile: the device tells it by its hash
                self._cap.take(size)
                _all(stream, buffer[: begin + size])
                at, begin = at + size, 0
                self._count(size)
        finally:
            os.close(descriptor)

    def _count(self, count: int) -> None:
        with self._counting:
            self.sent += count
            self._progress(count)


def _head(stream: Stream, data: bytes, seconds: float) -> tuple[bytes, bytes]:
    """The next request without its end, and what came after it."""
    deadline = time.monotonic() + seconds
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_BYTES:
            _refuse(stream, 400)
        stream.settimeout(max(deadline - time.monotonic(), 0.01))
        more = stream.recv(HEAD_BYTES)
        if not more:
            raise BrokenError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _refuse(stream: Stream, status: int) -> NoReturn:
    text = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    _all(stream, text.encode())
    raise BrokenError


def _all(stream: Stream, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        done = stream.send(left)
        if not done:
            raise BrokenError
        left = left[done:]
