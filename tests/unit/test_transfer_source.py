"""How a source's answer leaves: what each call costs is what a transfer costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.fleet.transfer.source import PACKET_BYTES
from edgekit.fleet.transfer.values import SEGMENT_BYTES
from tests.harness.pulling import TOKEN, blob, source_of


class Asking:
    """A stream with one request; keeps what is sent, call by call."""

    def __init__(self, request: str) -> None:
        self._requests = [request.encode()]
        self.sent: list[bytes] = []

    def recv(self, count: int) -> bytes:
        return self._requests.pop() if self._requests else b""

    def send(self, data: memoryview) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def settimeout(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("first", [0, 9_999_999_999])
def test_a_segment_and_its_head_leave_in_few_whole_packets(tmp_path: Path, first: int) -> None:
    wanted = blob(tmp_path, 2 * SEGMENT_BYTES)
    with wanted.source.open("r+b") as file:
        file.truncate(first + 2 * SEGMENT_BYTES)  # a hole: no disk is needed
    wanted = replace(wanted, size=first + 2 * SEGMENT_BYTES)
    last = first + SEGMENT_BYTES - 1
    stream = Asking(
        f"GET /blobs/{wanted.digest} HTTP/1.1\r\nRange: bytes={first}-{last}\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    )
    source_of([wanted]).serve(stream)
    head, _, body = b"".join(stream.sent).partition(b"\r\n\r\n")
    assert head.endswith(b"Content-Length: %d" % SEGMENT_BYTES)
    assert len(body) == SEGMENT_BYTES
    assert [-(-len(sent) // PACKET_BYTES) for sent in stream.sent] == [8, 8, 8, 8]
    assert all(len(sent) % PACKET_BYTES == 0 for sent in stream.sent[:-1])
