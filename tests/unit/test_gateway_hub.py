"""What a gateway holds: connections of requesters, and who may ask which device."""

from __future__ import annotations

import asyncio
import datetime
import threading
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.config import BrokerConfig
from edgekit.errors import UnreachableError
from edgekit.gateway import hub, keys
from edgekit.gateway.refusals import HttpError


@pytest.fixture
def made(tmp_path: Path) -> hub.Hub:
    keys.add(tmp_path / "keys.json", "alice", datetime.date(2026, 1, 1))
    return hub.Hub(
        hub.GatewaySettings(keys=tmp_path / "keys.json", broker=BrokerConfig("127.0.0.1", 1))
    )


class SlowLine:
    """Connects when `go` is set, and fails where `fails` says so."""

    made: list[SlowLine]
    go: threading.Event
    fails = False

    def __init__(self, *_: Any) -> None:
        self.connected = self.closed = False
        self.made.append(self)

    def connect(self) -> None:
        assert self.go.wait(10)
        if self.fails:
            raise UnreachableError("nothing listens", "refused")
        self.connected = True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[SlowLine]:
    monkeypatch.setattr(SlowLine, "made", [], raising=False)
    monkeypatch.setattr(SlowLine, "go", threading.Event(), raising=False)
    monkeypatch.setattr(SlowLine, "fails", False)
    monkeypatch.setattr(hub, "Line", SlowLine)
    return SlowLine


def test_a_client_that_leaves_while_its_requester_connects_leaves_no_connection_behind(
    made: hub.Hub, slow: type[SlowLine]
) -> None:
    async def run() -> None:
        first, second = (asyncio.create_task(made.line("alice")) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.wait([first], timeout=1)
        slow.go.set()
        assert await second is await made.line("alice")
        await made.stop()

    asyncio.run(run())
    assert [each.closed for each in slow.made] == [True]


def test_a_connection_that_nobody_waits_for_any_more_is_closed_at_the_stop(
    made: hub.Hub, slow: type[SlowLine]
) -> None:
    async def run() -> None:
        only = asyncio.create_task(made.line("alice"))
        await asyncio.sleep(0.05)
        only.cancel()
        await asyncio.wait([only], timeout=1)
        slow.go.set()
        await made.stop()

    asyncio.run(run())
    assert [each.closed for each in slow.made] == [True]


def test_a_connection_that_failed_is_tried_again(made: hub.Hub, slow: type[SlowLine]) -> None:
    async def run() -> None:
        slow.go.set()
        slow.fails = True
        with pytest.raises(HttpError, match="nothing listens"):
            await made.line("alice")
        slow.fails = False
        assert (await made.line("alice")).connected
        await made.stop()

    asyncio.run(run())
    assert len(slow.made) == 2
