"""How the gateway writes to a connection."""

from __future__ import annotations

import asyncio
import datetime
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from edgekit.core.config import BrokerConfig
from edgekit.gateway.app import application
from edgekit.gateway.hub import GatewaySettings, Hub
from edgekit.gateway.keys import add
from edgekit.gateway.server import _Bounded, _Gathering, listen


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the gateway's protocol and routes, whose hub nobody starts."""
    keys = tmp_path_factory.mktemp("gateway") / "keys.json"
    add(keys, "alice", datetime.date(2026, 1, 1))
    hub = Hub(GatewaySettings(keys=keys, broker=BrokerConfig("127.0.0.1", 1)))
    config = uvicorn.Config(
        application(hub), http=_Bounded, ws="none", lifespan="off", log_config=None
    )
    with listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/health", 503, b"no broker"),
        ("http://x/health", 503, b"no broker"),
        ("HTTP://other.example:8080/health?a=http://y/", 503, b"no broker"),
        ("https://[::1]:99/he%61lth", 503, b"no broker"),
        ("http://x/v1/models", 401, b"invalid_api_key"),
        ("http://x/api/tags", 401, b'{"error":"'),
        ("http://x", 200, b"<!doctype html>"),
        ("http://x/page/..%2fkeys.json", 404, b"not_found"),
        ("http://x/nothing", 404, b"GET /nothing is not served"),
        ("http:///health", 404, b"not_found"),
        ("http://user@x/health", 404, b"not_found"),
        ("ftp://x/health", 404, b"not_found"),
        ("xhttp://x/health", 404, b"not_found"),
        ("/http://x/health", 404, b"not_found"),
    ],
)
def test_a_target_that_is_a_whole_uri_is_served_by_its_path(
    listening: int, target: str, status: int, says: bytes
) -> None:
    head = f"GET {target} HTTP/1.1\r\nHost: else\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as sock:
        sock.sendall(head.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert int(answer.split()[1]) == status
    assert says.lower() in answer.lower()


class Written:
    """A transport that remembers what it is told."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def test_what_is_written_in_one_turn_goes_out_as_one_and_a_close_loses_nothing() -> None:
    async def run() -> list[Any]:
        below: Any = Written()
        transport: Any = _Gathering(below, asyncio.get_running_loop())
        for data in (b"head", b"", b"body"):
            transport.write(data)
        assert below.done == []
        await asyncio.sleep(0)
        assert below.done == [b"headbody"]
        transport.write(b"")
        await asyncio.sleep(0)
        transport.write(b"more")
        transport.write(b" and end")
        transport.close()
        await asyncio.sleep(0)
        assert transport.is_closing()
        return list(below.done)

    assert asyncio.run(run()) == [b"headbody", b"more and end", "closed"]
