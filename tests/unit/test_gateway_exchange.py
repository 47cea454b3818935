"""One prompt at the gateway: a line that records what goes out stands for the broker."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, cast

import pytest

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.gateway.catalog import Served
from edgekit.gateway.exchange import DeviceReply, Exchange
from edgekit.gateway.line import Line, Mailbox

ONE = Served("one", "toy", state="ready")


def reply(kind: str, body: dict[str, Any]) -> wire.Inbound:
    return wire.Inbound("t", json.dumps(body).encode(), user=(("ek-kind", kind),))


DELTA = reply("delta", {"seq": 0, "choices": [{"index": 0, "delta": {"content": "x"}}]})


class RecordingLine:
    """Has the prompt accepted at once, and notes who is told to cancel."""

    requester, connected = "alice", True

    def __init__(self) -> None:
        self.box = Mailbox("")
        self.cancelled: list[str] = []

    async def prompt(self, _device: str, _payload: bytes, box: Mailbox, _expiry: float) -> int:
        self.box = box
        box.replies.put_nowait(reply("accepted", {"position": 0}))
        return 0

    def cancel(self, device: str, _box: Mailbox) -> None:
        self.cancelled.append(device)

    def forget(self, box: Mailbox) -> None:
        pass


def exchange(line: RecordingLine, **more: Any) -> Exchange:
    return Exchange(
        line=cast(Line, line),
        prompt_id="p",
        payload=lambda _device: b"{}",
        devices=[ONE],
        state_of=lambda _name: "ready",
        deadline=time.monotonic() + 60,
        **more,
    )


async def all_of(made: Exchange) -> list[DeviceReply | None]:
    async with aclosing(made.replies()) as replies:
        return [each async for each in replies]


@pytest.mark.parametrize("ticks", range(6))
def test_a_client_that_leaves_while_a_delta_arrives_cancels_its_prompt(ticks: int) -> None:
    async def run() -> tuple[bool, list[str]]:
        line = RecordingLine()
        asking = asyncio.create_task(all_of(exchange(line)))
        await asyncio.sleep(0.05)
        line.box.replies.put_nowait(DELTA)
        for _ in range(ticks):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait([asking], timeout=1)
        return asking in done and asking.cancelled(), line.cancelled

    assert asyncio.run(run()) == (True, ["one"])


@pytest.mark.parametrize("ticks", range(6))
def test_a_client_that_leaves_while_a_puback_arrives_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    async def run() -> bool:
        line = Line(BrokerConfig("127.0.0.1", 1), "alice")
        sent: Future[int] = Future()
        monkeypatch.setattr(Line, "connected", True)
        monkeypatch.setattr(line._mqtt, "publish", lambda _message: sent)
        asking = asyncio.create_task(line.prompt("one", b"{}", Mailbox("p"), 60))
        await asyncio.sleep(0.05)
        sent.set_result(0)
        for _ in range(ticks):
            await asyncio.sleep(0)
        if asking.done():
            return True  # it came in time
        asking.cancel()
        await asyncio.wait([asking])
        return asking.cancelled()

    assert asyncio.run(run())
