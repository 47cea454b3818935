"""The answer to one HTTP request, for a client that does not read it."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from edgekit.core.config import BrokerConfig
from edgekit.gateway import answer, body, hub, keys
from edgekit.gateway.chunks import Chunks
from edgekit.gateway.exchange import DeviceReply
from edgekit.gateway.refusals import of_code


@pytest.mark.timeout(30)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_does_not_read_is_cut_off_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setattr(answer, "UNREAD_SECONDS", 0.2, raising=False)
    keys.add(tmp_path / "keys.json", "alice", datetime.date(2026, 1, 1))
    made = hub.Hub(
        hub.GatewaySettings(keys=tmp_path / "keys.json", broker=BrokerConfig("127.0.0.1", 1))
    )
    asked = body.read(f'{{"model":"toy","stream":{stream},"messages":[{{"role":"u"}}]}}'.encode())
    ended: list[str] = []

    class Exchange:
        async def replies(self) -> AsyncGenerator[DeviceReply | None, None]:
            message = {"role": "assistant", "content": "x"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            try:
                yield DeviceReply("one", "final", {"id": "chatcmpl-p", "choices": [choice]})
            finally:
                ended.append("exchange")

    async def exchange(*_: Any) -> Exchange:
        return Exchange()

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def full(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    monkeypatch.setattr(made, "exchange", exchange)

    shape = Chunks("p", 7, usage=False, text=False)

    async def run() -> None:
        one = answer.HttpAnswer(
            made, "alice", asked, shape, prompt_id="p", idempotency="", deadline=1
        )
        async with asyncio.timeout(5):
            await one({}, never, full)

    asyncio.run(run())
    assert ended == ["exchange"]
    assert made.streams == 0


@pytest.mark.parametrize(("ends", "counted"), [(True, {200: 1}), (False, {500: 1})])
def test_a_stream_counts_as_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool, counted: dict[int, int]
) -> None:
    """Its head says 200 in any case: the alert on failures saw none of a stream's."""
    keys.add(tmp_path / "keys.json", "alice", datetime.date(2026, 1, 1))
    made = hub.Hub(
        hub.GatewaySettings(keys=tmp_path / "keys.json", broker=BrokerConfig("127.0.0.1", 1))
    )
    asked = body.read(b'{"model":"toy","stream":true,"messages":[{"role":"u"}]}')
    sent: list[bytes] = []

    class Exchange:
        async def replies(self) -> AsyncGenerator[DeviceReply | None, None]:
            piece = {"index": 0, "delta": {"content": "x"}}
            yield DeviceReply("one", "delta", {"seq": 0, "choices": [piece]})
            if not ends:
                raise of_code("worker_crashed", "gone")
            message = {"role": "assistant", "content": "x"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            yield DeviceReply("one", "final", {"id": "chatcmpl-p", "choices": [choice]})

    async def exchange(*_: Any) -> Exchange:
        return Exchange()

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    monkeypatch.setattr(made, "exchange", exchange)
    shape = Chunks("p", 7, usage=False, text=False)
    one = answer.HttpAnswer(made, "alice", asked, shape, prompt_id="p", idempotency="", deadline=9)
    asyncio.run(one({}, never, send))
    assert (b"worker_crashed" in b"".join(sent)) is not ends
    assert made.requests == counted
