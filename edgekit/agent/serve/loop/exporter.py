"""Serves `GET /metrics` on loopback, for a Prometheus or its agent on the same device.

One thread serves one request at a time. It cuts off a client that sends slowly, or nothing, after
`REQUEST_SECONDS`. The agent's loop owns the metrics and renders them on request: while the loop is
stuck, the exporter answers 503.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from edgekit.core.protocol.exposition import CONTENT_TYPE

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 3.0  # for the loop to render: several ticks
REQUEST_SECONDS = 5.0  # for a client to send its whole request; again to read the answer
MAX_HEAD_BYTES = 16_384  # of a request: a scraper sends a few hundred
MAX_ASKED = 4
TARGET = re.compile(r"((?i:https?)://[^/?@]+)?/metrics(\?.*)?")  # RFC 9112 §3.2.1 and §3.2.2


class Exporter:
    """Serves the metrics that the agent's loop renders.

    Args:
        port: on loopback; 0 starts no server and loads no modules.
    """

    def __init__(self, port: int) -> None:
        self._asked: deque[Future[bytes]] = deque(maxlen=MAX_ASKED)
        if not port:
            return
        try:
            threading.Thread(target=_server(port, self._ask), daemon=True).start()
        except OSError as error:  # the agent answers prompts without it
            log.warning("no metrics on %s:%d: %s", LOOPBACK, port, error)

    def answer(self, render: Callable[[], bytes]) -> None:
        """Answer the requests that wait. The agent's loop calls this in every tick."""
        while self._asked:
            self._asked.popleft().set_result(render())

    def _ask(self) -> bytes:
        future: Future[bytes] = Future()
        self._asked.append(future)
        return future.result(ANSWER_SECONDS)


def _head(client: socket.socket, deadline: float) -> bytes:
    """Read the head of a request, up to its empty line or the client's end of file.

    Args:
        deadline: monotonic seconds.

    Raises:
        TimeoutError: the deadline passed.
        OSError: the connection broke.
    """
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < MAX_HEAD_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        client.settimeout(left)  # a timeout holds for one call: set it for each
        received = client.recv(4096)
        if not received:
            break
        head += received
    return head


def _server(port: int, ask: Callable[[], bytes]) -> Callable[[], None]:
    """Make a server that listens; return the function that runs it."""
    # Loaded on use: a device that serves no metrics saves 3 MB.
    from http.server import BaseHTTPRequestHandler  # noqa: PLC0415  as above
    from socketserver import TCPServer  # noqa: PLC0415  as above

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "edgekit", ""

        def setup(self) -> None:
            super().setup()
            # the socket's own timeout would start again with every byte of a slow client
            head = _head(self.connection, time.monotonic() + REQUEST_SECONDS)
            self.rfile.close()
            self.rfile = io.BytesIO(head)
            self.connection.settimeout(REQUEST_SECONDS)  # for a whole sendall

        def do_GET(self) -> None:
            if not TARGET.fullmatch(self.path):
                self.send_error(404, "only /metrics is served")
                return
            try:
                body = ask()
            except TimeoutError:
                self.send_error(503, "the agent's loop does not answer")
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log no scrapes."""

    class Server(TCPServer):  # HTTPServer looks up its own name: up to a DNS timeout
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            """Ignore a client that went away."""

    return Server((LOOPBACK, port), Handler).serve_forever
