"""uvicorn around the gateway: its limits, its listening socket, and how it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgekit.errors import UsageError
from edgekit.gateway.answer import UNREAD_SECONDS
from edgekit.gateway.app import application
from edgekit.gateway.hub import GatewaySettings, Hub
from edgekit.gateway.page.facts import ProjectReader

HEADER_BYTES = 32 << 10
HEADER_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 15
SEND_BUFFER_BYTES = 256 << 10  # of the system's, for each connection
CONNECTIONS_PER_STREAM = 2
SPARE_CONNECTIONS = 128
BACKLOG = 512


class _Gathering:
    """A transport that sends what is written in one turn of the event loop at its end, as one.

    uvicorn writes head, body and end of an answer apart. Each such packet wakes the client, which
    costs both more than what is in it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        if data and not self._written:
            self._loop.call_soon(self._send)
        if data:
            self._written.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        written, self._written = self._written, []
        if written:
            self._transport.write(b"".join(written))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Bounded(H11Protocol):
    """A connection whose request head must be there in time.

    uvicorn bounds the time between two requests, and neither that before the first one nor that of
    a head which arrives byte by byte.
    """

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathering: Any = _Gathering(transport, self.loop)  # type: ignore[arg-type]  # it is one of TCP
        super().connection_made(gathering)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_is_there()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the hub that it drains, and says when it listens."""

    def __init__(self, config: uvicorn.Config, hub: Hub, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._hub, self._on_ready = hub, on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal, hurry at a second Ctrl-C.

        uvicorn's own sends the signal again at the end, which would end the process before the
        prompts of a drain that took too long are cancelled.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.draining = True
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; what it accepts inherits its options.

    Raises:
        UsageError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        raise UsageError(
            f"the gateway cannot listen on {host}, port {port}",
            str(error),
            "name another --host or --port",
        ) from error
    return made


def serve(
    settings: GatewaySettings,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    reader: ProjectReader | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; answers under way then have `drain_seconds` to end.

    Raises:
        EdgekitError: or one of its kinds: the keys or the certificate cannot be read, or the broker
            does not answer.
    """
    hub = Hub(settings)
    app: Any = application(hub, reader)
    config = uvicorn.Config(
        app,
        http=_Bounded,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        limit_concurrency=settings.streams * CONNECTIONS_PER_STREAM + SPARE_CONNECTIONS,
        ssl_certfile=cert_file,
        ssl_keyfile=key_file,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise UsageError(
            "the gateway's certificate cannot be used",
            str(error),
            "--cert-file and --key-file name PEM files that belong together",
        ) from error

    async def run() -> None:
        await hub.start()
        try:
            await _Server(config, hub, on_ready).serve(sockets=[listener])
        finally:
            await hub.stop()

    asyncio.run(run())
