"""The proxy that puts a TCP port far away."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.far import WINDOW, far

RTT = 0.1


@pytest.fixture
def server() -> Iterator[int]:
    """Sends back what it receives, and a byte of its own first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def one(connection: socket.socket) -> None:
            with connection:
                connection.sendall(b"!")
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_an_answer_takes_a_round_trip_and_a_connection_what_tcp_takes(server: int) -> None:
    with far("127.0.0.1", server, RTT) as port:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as sock:
            assert sock.recv(1) == b"!"
            assert 2 * RTT <= time.monotonic() - began < 12 * RTT
            for _ in range(3):
                began = time.monotonic()
                sock.sendall(b"ping")
                assert sock.recv(100) == b"ping"
                assert RTT <= time.monotonic() - began < 10 * RTT


def test_all_bytes_arrive_in_order_and_the_end_too(server: int) -> None:
    data = bytes(range(256)) * (3 * WINDOW // 256)
    with far("127.0.0.1", server, RTT) as port, socket.socket() as sock:
        sock.connect(("127.0.0.1", port))
        began = time.monotonic()

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        threading.Thread(target=send).start()
        got = hashlib.sha256()
        while chunk := sock.recv(1 << 16):
            got.update(chunk)
        assert got.hexdigest() == hashlib.sha256(b"!" + data).hexdigest()
        # the window lets `WINDOW` bytes pass in each round trip
        assert time.monotonic() - began > len(data) / WINDOW * RTT


def test_where_nothing_listens_the_connection_ends() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()[1]
    with far("127.0.0.1", nobody, 0.01) as port, socket.socket() as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        assert sock.recv(1) == b""
