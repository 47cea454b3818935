"""The agent's parent process, where it is not the session that decides."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgekit.agent.serve.events import Publish, Tick
from edgekit.agent.serve.notify import Notifier
from edgekit.agent.serve.service import MAX_EVENTS, MAX_PACKET_BYTES, Service
from edgekit.core import wire
from edgekit.core.config import AgentConfig
from tests.fakes.session import bundle

MAX_WAITING_BYTES = 64 << 20


@pytest.fixture
def service(tmp_path: Path) -> Service:
    model, ready, tuning = (tmp_path / name for name in ("model", "ready", "tuning"))
    journal = tmp_path / "journal.db"
    return Service(
        AgentConfig("pi"), bundle(), "sha256:r", model, ready, tuning, "a", journal, Notifier({})
    )


def test_what_waits_for_the_session_is_bounded_in_bytes(service: Service) -> None:
    assert service._events.maxsize * MAX_PACKET_BYTES <= MAX_WAITING_BYTES
    assert MAX_PACKET_BYTES > wire.MAX_BODY_BYTES


def test_the_network_thread_waits_for_room_but_not_when_the_agent_ends(service: Service) -> None:
    for _ in range(MAX_EVENTS):
        service._events.put_nowait(Tick())
    network = threading.Thread(target=service._connection, args=(True,), daemon=True)
    network.start()
    network.join(0.7)  # longer than one look
    assert network.is_alive()
    service._running = False
    network.join(5)
    assert not network.is_alive()
    assert service._events.qsize() == MAX_EVENTS


def test_a_reply_that_cannot_be_put_into_a_packet_does_not_end_the_agent(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service._publish(Publish(wire.Outbound("no/#/topic", b""), "alice/p1", "final"))
    assert "alice/p1 cannot be published" in caplog.text
