"""A registry that sends too slowly is left.

A deadline for each byte does not end an answer of one byte every 29 seconds, and a deadline for the
whole answer would end honest transfers over a slow link. So an answer must come at a pace.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

WINDOW_SECONDS = 60.0  # of waiting for bytes; what we do with them does not count
LEAST_BYTES = 60 << 10  # in such a window: 1 KiB/s, less than a bad GPRS link


class PacedResponse(http.client.HTTPResponse):
    """An answer of HTTP; reading its head or body raises TimeoutError if it comes too slowly."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
        super().__init__(sock, debuglevel, method)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Paced(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._came += count or 0
        if count and self._waited >= WINDOW_SECONDS:
            if self._came < LEAST_BYTES:
                raise TimeoutError(f"{self._came:,} bytes in {self._waited:.0f} seconds")
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
