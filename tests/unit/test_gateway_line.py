"""A requester's connection to the broker: what waits for it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from edgekit.core.config import BrokerConfig
from edgekit.core.protocol import wire
from edgekit.errors import UnreachableError
from edgekit.gateway.line import MOST_UNSENT, MOST_WAITING, Line, Mailbox
from tests import tools


def test_deltas_that_nobody_takes_are_bounded_and_the_final_comes() -> None:
    async def run() -> tuple[int, str]:
        line, box = Line(BrokerConfig("127.0.0.1", 1), "alice"), Mailbox("p")
        correlation = line._expect(box)
        for _ in range(2 * MOST_WAITING):
            line._received(
                wire.Inbound("t", b"{}", correlation=correlation, user=(("ek-kind", "delta"),))
            )
        line._received(
            wire.Inbound("t", b"{}", correlation=correlation, user=(("ek-kind", "final"),))
        )
        count, last = box.replies.qsize(), ""
        while not box.replies.empty():
            last = box.replies.get_nowait().property("ek-kind")
        return count, last

    assert asyncio.run(run()) == (MOST_WAITING + 1, "final")


@pytest.mark.timeout(60)
def test_a_broker_that_does_not_answer_is_said_and_no_descriptor_is_left() -> None:
    async def run() -> None:
        line = Line(BrokerConfig("127.0.0.1", tools.free_port()), "alice")
        with pytest.raises(UnreachableError, match="does not answer"):
            await line.connect()

    asyncio.run(run())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        asyncio.run(run())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.timeout(60)
def test_a_control_waits_for_a_connection(tmp_path: Path) -> None:
    async def run() -> list[str]:
        with tools.mosquitto(tmp_path) as broker:
            line = Line(BrokerConfig("127.0.0.1", broker.port), "alice")
            await line.connect()
            broker.stop(kill=True)
            async with asyncio.timeout(10):
                while line.connected:
                    await asyncio.sleep(0.01)
            for number in range(MOST_UNSENT + 5):
                line.cancel("one", Mailbox(f"p{number}"))
            assert len(line._unsent) == MOST_UNSENT
            line._unsent.clear()
            line.cancel("one", Mailbox(uuid.uuid4().hex))
            broker.start()
            async with asyncio.timeout(30):
                while line._unsent or line._sending or not line.connected:
                    await asyncio.sleep(0.01)
            await line.close()
            return [str(line.connected)]

    assert asyncio.run(run()) == ["False"]


def test_a_line_knows_that_another_client_has_taken_it_over() -> None:
    async def run() -> bool:
        line = Line(BrokerConfig("127.0.0.1", 1), "alice")
        assert not line.taken_over
        line._mqtt._engine._on_taken_over()  # DISCONNECT with 0x8E
        return line.taken_over

    assert asyncio.run(run())
