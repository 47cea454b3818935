"""A TCP proxy that delays: `python -m benchmarks.transfer.delay PORT MILLISECONDS` prints its port.

Each direction waits half of the round trip. So much may be under way that SSH's own windows are
what limits a stream.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from contextlib import suppress

PIECE_BYTES = 1 << 18
MOST_BYTES = 64 << 20  # under way in one direction


def _pass_on(from_: socket.socket, to: socket.socket, seconds: float) -> None:
    """Write each piece `seconds` after it came."""
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    under_way, fewer = 0, threading.Condition()

    def write() -> None:
        nonlocal under_way
        with suppress(OSError):
            while True:
                due, data = pieces.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not data:
                    break
                to.sendall(data)
                with fewer:
                    under_way -= len(data)
                    fewer.notify()
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    threading.Thread(target=write, daemon=True).start()
    data = b"-"
    while data:
        try:
            data = from_.recv(PIECE_BYTES)
        except OSError:
            data = b""
        with fewer:
            while under_way > MOST_BYTES:
                fewer.wait()
            under_way += len(data)
        pieces.put((time.monotonic() + seconds, data))


def serve(port: int, seconds: float) -> None:
    """Serve for ever; print the port of the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            ours, _ = server.accept()
            theirs = socket.create_connection(("127.0.0.1", port))
            for pair in ((ours, theirs), (theirs, ours)):
                for one in pair:
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_pass_on, args=(*pair, seconds / 2), daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]) / 1000)
