"""How the gateway writes to a connection."""

from __future__ import annotations

import asyncio
from typing import Any

from edgekit.gateway.server import _Gathering


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
