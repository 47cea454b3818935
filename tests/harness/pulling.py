"""A device's `pull.py` against our source over plain sockets: faults are cheap here."""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgekit.core.digest import Digest
from edgekit.fleet.transfer.bring import PULL
from edgekit.fleet.transfer.cap import Cap
from edgekit.fleet.transfer.source import BlobSource
from edgekit.fleet.transfer.values import WantedBlob

TOKEN = "the-token-of-this-transfer"
Serve = Callable[[socket.socket], None]


def blob(folder: Path, size: int, have: int = 0, seed: int = 1) -> WantedBlob:
    """A blob of random bytes in `folder`, and a part with its first bytes."""
    folder.mkdir(exist_ok=True)
    data = random.Random(seed).randbytes(size)
    digest = Digest.of(data)
    source, target = folder / f"source-{digest.hex}", folder / f"{digest.hex}.part"
    source.write_bytes(data)
    if have:
        target.write_bytes(data[:have])
    return WantedBlob(digest, source, str(target), size, have)


def whole(wanted: WantedBlob) -> bool:
    """Whether the part is the blob."""
    return Path(wanted.target).read_bytes() == wanted.source.read_bytes()


def source_of(blobs: Sequence[WantedBlob]) -> BlobSource:
    """The source of these blobs."""
    return BlobSource(blobs, TOKEN, Cap(), lambda _: None)


@contextmanager
def listening(serve: Serve, host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a server that gives each connection to `serve`, in a thread of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    one, _ = server.accept()
                    threading.Thread(target=serve, args=(one,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)


def job(port: int, blobs: Sequence[WantedBlob], **other: Any) -> dict[str, Any]:
    """What `pull.py` is told."""
    told = [{"digest": b.digest, "path": b.target, "size": b.size, "have": b.have} for b in blobs]
    usual = {"token": TOKEN, "connections": 4, "ahead": 2, "segment_bytes": 1 << 16}
    return {"port": port, "blobs": told, **usual, **other}


def pulled(told: dict[str, Any]) -> dict[str, Any]:
    """The answer of a `pull.py` that has ended; it waits a tenth as long after a failure."""
    text = PULL.read_text("utf-8")
    assert "PAUSE_SECONDS = 0.1" in text
    done = subprocess.run(
        [sys.executable, "-I", "-c", text.replace("PAUSE_SECONDS = 0.1", "PAUSE_SECONDS = 0.01")],
        input=json.dumps(told).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert not done.stderr, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def reset(sock: socket.socket) -> None:
    """End a connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Breaking:
    """A socket that resets in `share` of its sends."""

    def __init__(self, sock: socket.socket, chance: random.Random, share: float) -> None:
        self._sock, self._chance, self._share = sock, chance, share
        self.recv, self.settimeout, self.close = sock.recv, sock.settimeout, sock.close

    def send(self, data: memoryview) -> int:
        """Send, or reset."""
        if self._chance.random() < self._share:
            reset(self._sock)
            raise ConnectionResetError
        return self._sock.send(data)
