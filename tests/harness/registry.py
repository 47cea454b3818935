"""A real registry (Debian's docker-registry) on loopback, and one that answers as a test says."""

from __future__ import annotations

import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from edgekit.core.registry import parse_registry
from edgekit.registry.client import RegistryAccess, RegistryClient
from tests import tools

REPOSITORY = "fleet/models"
USER, PASSWORD = "fleet", "a-long-password"


@dataclass
class Registry:
    """A docker-registry that a test may kill and start again on the same port."""

    folder: Path
    more_config: str = ""
    scheme: str = "http"
    port: int = field(default_factory=tools.free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its repository, as fleet.toml names it."""
        return f"{self.scheme}://127.0.0.1:{self.port}/{REPOSITORY}"

    def access(self, **more: str) -> RegistryAccess:
        return RegistryAccess(parse_registry(self.url), **more)

    def client(self, **more: str) -> RegistryClient:
        return RegistryClient(self.access(**more), pushes=True)

    def blob(self, digest: str) -> Path:
        """The file of a blob in its storage."""
        hexes = digest.removeprefix("sha256:")
        inside = "data/docker/registry/v2/blobs/sha256"
        return self.folder / inside / hexes[:2] / hexes / "data"

    def start(self) -> None:
        """Start it; returns when it listens."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "registry.yml"
        tls = self.more_config
        config.write_text(
            "version: 0.1\nlog:\n  level: warn\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.folder / 'data'}\n"
            f"  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{self.port}\n{tls}"
        )
        log = (self.folder / "registry.log").open("ab")
        self.process = subprocess.Popen(
            [tools.find("docker-registry"), "serve", str(config)], stdout=log, stderr=log
        )
        log.close()
        tools.wait_for_port(self.port, self.process)

    def kill(self) -> None:
        """End it at once, in the middle of what it sends."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@contextmanager
def registry(folder: Path, more_config: str = "", scheme: str = "http") -> Iterator[Registry]:
    """A registry for the length of a block."""
    made = Registry(folder, more_config, scheme)
    made.start()
    try:
        yield made
    finally:
        made.kill()


Answer = tuple[int, dict[str, str], bytes]
Route = Callable[[str, str, Message], Answer]


@contextmanager
def answering(route: Route) -> Iterator[int]:
    """The port of a server that answers (method, path, headers) as a test says.

    An answer whose Content-Length is more than its bytes breaks off.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, data = route(self.command, self.path, self.headers)
            self.send_response(status)
            told = {"Content-Length": str(len(data))} | headers
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if int(told["Content-Length"]) > len(data):
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _any  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None: ...

    with _serving(Handler) as port:
        yield port


@contextmanager
def trickling(answer: bytes, fast: int) -> Iterator[int]:
    """The port of a server that sends `fast` bytes of its answer at once, then one every 10 ms."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            with suppress(OSError):
                self.request.sendall(answer[:fast])
                for at in range(fast, len(answer)):
                    time.sleep(0.01)
                    self.request.sendall(answer[at : at + 1])

    with _serving(Handler) as port:
        yield port


@contextmanager
def _serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def client_of(port: int, **more: str) -> RegistryClient:
    """A client of `answering`."""
    access = RegistryAccess(parse_registry(f"http://127.0.0.1:{port}/{REPOSITORY}"), **more)
    return RegistryClient(access)
