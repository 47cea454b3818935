"""`GET /metrics` on loopback, for a Prometheus or an agent of one on the same device.

One thread, one request at a time; a client that sends slowly, or nothing, is cut off after
`REQUEST_SECONDS`. The numbers belong to the agent's loop, which renders them when they were asked
for: a loop that is stuck shows as 503.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from edgekit.agent.serve.session.exposition import CONTENT_TYPE

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS = 3.0  # several ticks of the loop
REQUEST_SECONDS = 5.0  # for a whole request, however slowly it comes; again for the answer
MAX_HEAD_BYTES = 16_384  # of a request: a scraper sends some hundred
MAX_ASKED = 4


class Exporter:
    """Serves what the loop renders.

    Args:
        port: of loopback; 0 serves nothing, and loads nothing.
    """

    def __init__(self, port: int) -> None:
        self._asked: deque[Future[bytes]] = deque(maxlen=MAX_ASKED)
        if not port:
            return
        try:
            threading.Thread(target=_server(port, self._ask), daemon=True).start()
        except OSError as error:  # prompts are answered all the same
            log.warning("no metrics on %s:%d: %s", LOOPBACK, port, error)

    def answer(self, render: Callable[[], bytes]) -> None:
        """On the loop: give the numbers to whoever asked."""
        while self._asked:
            self._asked.popleft().set_result(render())

    def _ask(self) -> bytes:
        future: Future[bytes] = Future()
        self._asked.append(future)
        return future.result(ANSWER_SECONDS)


def _head(client: socket.socket, deadline: float) -> bytes:
    """What a client sends up to the empty line that ends a request's head, or its end.

    Args:
        deadline: monotonic seconds.

    Raises:
        TimeoutError: the deadline passed.
        OSError: the client is gone.
    """
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) < MAX_HEAD_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        client.settimeout(left)  # of this call alone, so that it is set for each
        received = client.recv(4096)
        if not received:
            break
        head += received
    return head


def _server(port: int, ask: Callable[[], bytes]) -> Callable[[], None]:
    """A server that listens; what runs it."""
    # Loaded on use: they cost a device that serves no metrics 3 MB.
    from http.server import BaseHTTPRequestHandler  # noqa: PLC0415  as above
    from socketserver import TCPServer  # noqa: PLC0415  as above

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "edgekit", ""

        def setup(self) -> None:
            super().setup()
            # the socket's own timeout would begin anew with every byte of a slow client
            head = _head(self.connection, time.monotonic() + REQUEST_SECONDS)
            self.rfile.close()
            self.rfile = io.BytesIO(head)
            self.connection.settimeout(REQUEST_SECONDS)  # for the whole of a sendall

        def do_GET(self) -> None:
            if self.path != "/metrics":
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
            """Scrapes are no news."""

    class Server(TCPServer):  # HTTPServer looks its own name up, which may take a DNS timeout
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            """Whoever asked went away."""

    return Server((LOOPBACK, port), Handler).serve_forever
