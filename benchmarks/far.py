"""A TCP port that is far away: what goes through it arrives half a round trip later.

    with far("10.231.0.2", 22, rtt=0.08) as port:      # a process of its own; 127.0.0.1:port
        ...

    python -m benchmarks.far 10.231.0.2:22 --rtt 80    # the same by hand, until Ctrl-C

Each direction is a queue: bytes are read at once, kept for half the round-trip time, then written.
Bandwidth has no limit, but the bytes under way have one: `WINDOW` in each direction of each
connection, as much as Linux lets one TCP connection send before an answer. A connection is open
after the round trips that TCP takes for it. Slow start and loss are not simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from collections.abc import Iterator

WINDOW = 4 << 20  # bytes; the largest net.ipv4.tcp_wmem of Linux
HANDSHAKE = 1.5  # round trips until the server's end of a TCP connection is open
OPEN_SECONDS = 10.0


class _End(asyncio.Protocol):
    """One end of a connection; what it receives goes to its peer, later."""

    def __init__(self, delay: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self._delay = delay
        self._queue: deque[bytes] = deque()  # an empty one: nothing more comes
        self._under_way = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._under_way += len(data)
        self._send(data)
        if self._under_way >= WINDOW and self.transport and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._send(b"")
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self._delay, self._close_peer)

    def resume_writing(self) -> None:
        if self.peer:
            self.peer.answered(0)

    def _send(self, data: bytes) -> None:
        self._queue.append(data)
        asyncio.get_running_loop().call_later(self._delay, self._arrive)

    def _arrive(self) -> None:
        data, to = self._queue.popleft(), self.peer.transport if self.peer else None
        if to is None or to.is_closing():
            return
        if data:
            to.write(data)
            asyncio.get_running_loop().call_later(self._delay, self.answered, len(data))
        elif to.can_write_eof():
            to.write_eof()

    def answered(self, count: int) -> None:
        """The other side has these bytes, as this side learns now."""
        self._under_way -= count
        to = self.peer.transport if self.peer else None
        waiting = to.get_write_buffer_size() if to else 0
        if self._paused and self._under_way + waiting < WINDOW and self.transport:
            self._paused = False
            self.transport.resume_reading()

    def _close_peer(self) -> None:
        if self.peer and self.peer.transport:
            self.peer.transport.close()


async def serve(host: str, port: int, rtt: float) -> None:
    """Listen on a free port of loopback, print it, and pass connections on until cancelled.

    Args:
        host: where the far server is.
        port: its port.
        rtt: the round-trip time in seconds.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def connect(near: _End) -> None:
        await asyncio.sleep(HANDSHAKE * rtt)
        try:
            _, there = await loop.create_connection(lambda: _End(rtt / 2), host, port)
        except OSError:
            if near.transport:
                near.transport.abort()
            return
        near.peer, there.peer = there, near
        if near.transport:
            near.transport.resume_reading()

    class Near(_End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert self.transport
            self.transport.pause_reading()  # until the far end is there
            task = loop.create_task(connect(self))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await loop.create_server(lambda: Near(rtt / 2), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextlib.contextmanager
def far(host: str, port: int, rtt: float) -> Iterator[int]:
    """Put a server far away for the length of a block; yields the port on 127.0.0.1."""
    argv = [sys.executable, "-m", "benchmarks.far", f"{host}:{port}", "--rtt", str(rtt * 1000)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"`{' '.join(argv)}` ended with {process.wait(OPEN_SECONDS)}")
        yield int(line)
    finally:
        process.terminate()
        process.wait(OPEN_SECONDS)
        if process.stdout:
            process.stdout.close()


def main() -> None:
    """Pass connections on until Ctrl-C."""
    parser = argparse.ArgumentParser("python -m benchmarks.far", description=__doc__)
    parser.add_argument("server", metavar="HOST:PORT", help="what is put far away")
    parser.add_argument("--rtt", type=float, required=True, metavar="MS", help="round-trip time")
    asked = parser.parse_args()
    host, _, port = asked.server.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(host, int(port), asked.rtt / 1000))


if __name__ == "__main__":
    main()
