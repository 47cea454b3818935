"""What a gateway holds: connections of requesters, and who may ask which device."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics, wire
from edgekit.errors import UnreachableError
from edgekit.gateway import body, hub, keys
from edgekit.gateway.catalog import Served
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
        self.connected = self.closed = self.taken_over = False
        self.made.append(self)

    async def connect(self) -> None:
        async with asyncio.timeout(10):
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        if self.fails:
            raise UnreachableError("nothing listens", "refused")
        self.connected = True

    async def close(self) -> None:
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


def test_a_gateway_has_what_the_broker_keeps_before_it_listens(
    made: hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card comes each 0.1 s. What is not retained comes for ever, and does not count."""
    ended = threading.Event()

    class SlowBroker:
        def __init__(self, *_: Any, on_message: Callable[[wire.Inbound], None], **_more: Any):
            self.say, self.connected = on_message, True

        def connect(self) -> None:
            self.thread = threading.Thread(target=self.run)
            self.thread.start()

        def run(self) -> None:
            n = 0
            while not ended.wait(0.1):
                n += 1
                retained = n <= 10
                topic = topics.card_topic(f"d{n}") if retained else topics.status_topic("d1")
                self.say(wire.Inbound(topic, b'{"model":"toy"}', retain=retained))

        def close(self) -> None:
            ended.set()
            self.thread.join()

    monkeypatch.setattr(hub, "MqttClient", SlowBroker)

    async def run() -> None:
        try:
            async with asyncio.timeout(5):
                await made.start()
            assert len(made.known) == 10
        finally:
            await made.stop()

    asyncio.run(run())


def asked(model: str) -> body.ApiRequest:
    return body.read(f'{{"model":"{model}","messages":[{{"role":"user"}}]}}'.encode())


def test_a_key_whose_prompt_another_device_has_is_refused_by_name(made: hub.Hub) -> None:
    for name in ("one", "two"):
        made.known[name] = Served(name, "toy", state="ready")
    made._remembering("alice", "order-1")("one")
    assert [each.name for each in made.devices_for("alice", asked("toy"), "order-1")] == ["one"]
    with pytest.raises(HttpError, match="one") as conflict:
        made.devices_for("alice", asked("device:two"), "order-1")
    assert (conflict.value.status, conflict.value.code) == (409, "id_conflict")
    assert not conflict.value.retry
    assert made.devices_for("alice", asked("device:two"), "order-2")
    assert made.devices_for("bob", asked("device:two"), "order-1")
    del made.known["one"]
    for model in ("toy", "device:one"):
        with pytest.raises(HttpError, match="one") as gone:
            made.devices_for("alice", asked(model), "order-1")
        assert (gone.value.status, gone.value.code) == (503, "device_unreachable")


def test_one_requester_leaves_half_of_the_streams_to_others(made: hub.Hub) -> None:
    made.settings = msgspec.structs.replace(made.settings, streams=4)
    with ExitStack() as held:
        for n in range(2):
            held.enter_context(made.running("alice", str(n)))
        with pytest.raises(HttpError, match="2 answers for alice are under way") as refused:
            held.enter_context(made.running("alice", "2"))
        assert (refused.value.status, refused.value.code) == (429, "rate_limited")
        assert refused.value.retry
        for n in range(2):
            held.enter_context(made.running("bob", str(n)))
        with pytest.raises(HttpError, match="4 answers are under way"):
            held.enter_context(made.running("carol", "0"))
    with made.running("alice", "2"):
        assert made.streams == 1


def test_a_connection_that_another_client_took_over_is_made_anew_for_the_next_prompt(
    made: hub.Hub, slow: type[SlowLine]
) -> None:
    """It never connects again by itself: two that do would end each other's for ever."""

    async def run() -> None:
        slow.go.set()
        first = await made.line("alice")
        slow.made[0].taken_over, slow.made[0].connected = True, False
        second = await made.line("alice")
        assert second is not first
        assert second is await made.line("alice")
        await made.stop()

    asyncio.run(run())
    assert [each.closed for each in slow.made] == [True, True]
