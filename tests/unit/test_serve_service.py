"""The agent's parent process, where it is not the session that decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.serve.events import Publish, Restored, Tick
from edgekit.agent.serve.job import Row
from edgekit.agent.serve.notify import Notifier
from edgekit.agent.serve.service import Service
from edgekit.agent.serve.states import State
from edgekit.core import topics, wire
from edgekit.core.config import AgentConfig
from tests.fakes.session import bundle


@pytest.fixture
def service(tmp_path: Path) -> Service:
    model, ready, tuning = (tmp_path / name for name in ("model", "ready", "tuning"))
    journal = tmp_path / "journal.db"
    return Service(
        AgentConfig("pi"), bundle(), "sha256:r", model, ready, tuning, "a", journal, Notifier({})
    )


def test_a_reply_that_cannot_be_put_into_a_packet_does_not_end_the_agent(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service._mqtt._connected_at = 0.0
    service._publish(Publish(wire.Outbound("no/#/topic", b""), "alice/p1", "final"))
    assert "alice/p1 cannot be published" in caplog.text


def test_every_tick_the_journal_is_tidied_after_what_it_was_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(service._journal, "commit", lambda *_: done.append("commit"))
    monkeypatch.setattr(service._journal, "tidy", lambda: done.append("tidy"))
    reply = wire.Reply(topics.response_prefix("alice") + "1", b"c", "p1", "pi", final_only=False)
    row = Row("alice/p1", "alice", State.ACCEPTED, reply, b"h", b"{", 0.0, 0.0, 0.0)
    service._handle(Restored((row,)))  # it ends at once
    assert done == ["commit"]
    service._handle(Tick())
    assert done[-1] == "tidy"
    assert done.count("tidy") == 1
