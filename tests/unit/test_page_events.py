"""The stream of the fleet's changes: who does not read, who may not, and how it ends."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import topics
from edgekit.gateway import hub, keys
from edgekit.gateway.page import events
from edgekit.gateway.page.facts import Facts
from edgekit.gateway.page.fleet import SLOTS
from edgekit.gateway.refusals import HttpError

pytestmark = pytest.mark.timeout(30)
STATUS = topics.status_topic("pi-1")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> events.Watching:
    monkeypatch.setattr(events, "PAUSE_SECONDS", 0.01)
    keys.add(tmp_path / "keys.json", "alice", datetime.date(2026, 1, 1))
    settings = hub.GatewaySettings(keys=tmp_path / "keys.json", broker=BrokerConfig("h", 1))
    return events.Watching(hub.Hub(settings), Facts(None))


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


class Client:
    """Reads what is sent; `found` has the events."""

    def __init__(self) -> None:
        self.text = b""
        self.ended = False

    async def send(self, message: Message) -> None:
        self.text += message.get("body", b"")
        self.ended = message["type"] == "http.response.body" and not message.get("more_body")

    @property
    def found(self) -> list[tuple[str, Any]]:
        parts = [part.split("\n") for part in self.text.decode().split("\n\n") if "data: " in part]
        return [(one.removeprefix("event: "), json.loads(two[6:])) for one, two in parts]

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not check():
                await asyncio.sleep(0.005)


def tell(made: events.Watching, body: bytes) -> None:
    for listener in made.hub.listeners:
        listener(STATUS, body, False)


def watch(
    made: events.Watching, story: Callable[[Client], Awaitable[None]], may: Any = lambda: True
) -> Client:
    """Run a story while a client watches; the stream must be over when the gateway drains."""
    client = Client()

    async def run() -> None:
        one = events.FleetEvents(made, "alice", may)
        going = asyncio.create_task(one({}, never, client.send))
        await client.until(lambda: client.found)
        await story(client)
        made.hub.draining = True
        async with asyncio.timeout(5):
            await going

    asyncio.run(run())
    assert client.ended
    assert made.watchers.total() == 0
    return client


def test_it_begins_with_everything_and_goes_on_with_changes(made: events.Watching) -> None:
    tell(made, b'{"state":"ready"}')

    async def story(client: Client) -> None:
        tell(made, b'{"state":"busy","active":1,"tok_s":5}')
        await client.until(lambda: len(client.found) > 1)
        tell(made, b"")
        await client.until(lambda: client.found[-1][1].get("gone"))

    found = watch(made, story).found
    assert found[0][0] == "fleet"
    assert [each["state"] for each in found[0][1]["devices"]] == ["ready"]
    changes = [body for name, body in found if name == "devices"]
    assert changes[0]["devices"][0]["active"] == 1
    assert changes[-1] == {"devices": [], "gone": ["pi-1"], "broker": False}


def test_what_changed_is_encoded_once_for_all_who_have_seen_the_same(
    made: events.Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = events.event, []

    def counted(name: str, body: Any) -> bytes:
        encoded.append(name)
        return encode(name, body)

    monkeypatch.setattr(events, "event", counted)
    other = Client()

    async def story(client: Client) -> None:
        going = asyncio.create_task(
            events.FleetEvents(made, "bob", lambda: True)({}, never, other.send)
        )
        await other.until(lambda: other.found)
        tell(made, b'{"state":"ready"}')
        for each in (client, other):
            while "devices" not in dict(each.found):
                await asyncio.sleep(0.005)
        made.hub.draining = True
        await going

    mine = watch(made, story)
    assert dict(mine.found)["devices"] == dict(other.found)["devices"]
    assert encoded.count("devices") == 1


def test_a_slot_that_ended_is_told(made: events.Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = 7
    monkeypatch.setattr(events, "slot", lambda _: slot)
    monkeypatch.setattr("edgekit.gateway.page.fleet.slot", lambda _: slot)

    async def story(client: Client) -> None:
        nonlocal slot
        tell(made, b'{"state":"busy","active":1,"tok_s":5}')
        slot = 9
        await client.until(lambda: client.found[-1][0] == "speeds")

    told = [body for name, body in watch(made, story).found if name == "speeds"]
    assert told == [{"pi-1": 5.0}, {}]


def test_a_watcher_is_told_no_more_slots_than_a_line_has(
    made: events.Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = 7
    monkeypatch.setattr(events, "slot", lambda _: slot)

    async def story(client: Client) -> None:
        nonlocal slot
        slot = 100_000
        await client.until(lambda: client.found[-1][0] == "speeds")

    told = [body for name, body in watch(made, story).found if name == "speeds"]
    assert len(told) == SLOTS


def test_a_clock_that_is_set_stops_no_line(
    made: events.Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.gateway.page.fleet.SLOT_SECONDS", 0.05)
    clock = time.time()
    monkeypatch.setattr(time, "time", lambda: clock)
    told: list[dict[str, float]] = []

    async def story(client: Client) -> None:
        nonlocal clock
        tell(made, b'{"state":"ready"}')
        for jump in (3600, -7200):
            clock += jump
            seen = len(client.found)
            tell(made, b'{"state":"busy","active":1,"tok_s":5}')
            while ("speeds", {"pi-1": 5.0}) not in client.found[seen:]:
                await asyncio.sleep(0.005)
        told.extend(body for name, body in client.found if name == "speeds")

    watch(made, story)
    assert 2 <= len(told) < SLOTS


def test_who_does_not_read_is_cut_off(
    made: events.Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "UNREAD_SECONDS", 0.1)

    async def full(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def run() -> None:
        async with asyncio.timeout(5):
            await events.FleetEvents(made, "alice", lambda: True)({}, never, full)

    asyncio.run(run())
    assert made.watchers.total() == 0


def test_a_client_that_goes_ends_it(made: events.Watching) -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        client = Client()
        one = events.FleetEvents(made, "alice", lambda: True)
        going = asyncio.create_task(one({}, receive, client.send))
        await client.until(lambda: client.found)
        assert made.watchers["alice"] == 1
        gone.set()
        async with asyncio.timeout(5):
            await going

    asyncio.run(run())
    assert made.watchers.total() == 0


def test_a_key_that_was_revoked_ends_it(
    made: events.Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "COMMENT_SECONDS", 0.05)
    may = True

    async def story(client: Client) -> None:
        nonlocal may
        await client.until(lambda: b": still here" in client.text)
        may = False
        await client.until(lambda: client.ended)

    watch(made, story, lambda: may)


@pytest.mark.parametrize(
    ("of_alice", "of_others"), [(events.MOST_OF_ONE, 0), (0, events.MOST_WATCHERS)]
)
def test_a_bounded_number_watches(made: events.Watching, of_alice: int, of_others: int) -> None:
    made.watchers.update({"alice": of_alice, "bob": of_others})
    client = Client()
    with pytest.raises(HttpError) as refused:
        asyncio.run(events.FleetEvents(made, "alice", lambda: True)({}, never, client.send))
    assert refused.value.status == 429
    assert not client.text
