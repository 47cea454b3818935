"""The agent's parent process, where it is not the session that decides."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edgekit.agent.release.desired.decide import Desired, encode_desired
from edgekit.agent.serve.loop.desiredfile import DesiredFile
from edgekit.agent.serve.loop.notify import Notifier
from edgekit.agent.serve.loop.service import Service
from edgekit.agent.serve.pipe import Ready
from edgekit.agent.serve.session.events import (
    Exit,
    ForgetShown,
    GiveUp,
    GoOnline,
    Publish,
    ReadyUnsaid,
    Restored,
    SayReady,
    Stopped,
    Tick,
)
from edgekit.agent.serve.session.prompt import JournalRow
from edgekit.agent.serve.session.states import State
from edgekit.core.config import AgentConfig, PullConfig
from edgekit.core.digest import Digest
from edgekit.core.protocol import topics, wire
from edgekit.errors import EdgekitError
from tests.harness.session import bundle


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
    service._mqtt._engine._connected_at = 0.0
    service._publish(Publish(wire.Outbound("no/#/topic", b""), "alice/p1", "final"))
    assert "alice/p1 cannot be published" in caplog.text


def test_a_desired_state_that_the_broker_refuses_is_said_and_the_group_s_is_not_taken(
    tmp_path: Path,
) -> None:
    """As Mosquitto's dynamic security answers a SUBSCRIBE for which the role lacks a right."""
    pull = PullConfig("registry.example/m", groups=["all"])
    files = (tmp_path / "desired.json", tmp_path / "update.json")
    desired = DesiredFile("pi", pull, *files)
    model, ready, tuning = (tmp_path / name for name in ("model", "ready", "tuning"))
    journal, config = tmp_path / "journal.db", AgentConfig("pi")
    service = Service(
        *(config, bundle(), "sha256:r", model, ready, tuning, "a", journal, Notifier({})),
        desired=desired,
    )
    own, group = topics.desired_topic("pi"), topics.group_desired_topic("all")
    engine, release = service._mqtt._engine, Digest.of(b"r")
    engine._asked, engine._connected_at = engine._subscriptions, 0.0
    codes: list[Any] = [
        ReasonCode(PacketTypes.SUBACK, identifier=0x87 if each == own else qos)
        for each, qos in engine._subscriptions
    ]
    engine._suback(engine.client, None, 1, codes, None)
    word = encode_desired(Desired(release, "r:1", 1, 1, switch=True))
    service._received(wire.Inbound(group, word, retain=True, token=(0, 0, 0)))
    desired.tick(time.monotonic() + 60)
    service._handle(Tick())
    assert not files[0].exists()
    told = json.loads((tmp_path / "broker.json").read_bytes())
    assert told["desired"] == f"the broker does not let this device read {own}"
    assert own in told["unserved"]


def test_every_tick_the_journal_is_tidied_after_what_it_was_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(service._journal, "commit", lambda *_: done.append("commit"))
    monkeypatch.setattr(service._journal, "tidy", lambda: done.append("tidy"))
    reply = wire.ReplyTo(topics.response_prefix("alice") + "1", b"c", "p1", "pi", final_only=False)
    row = JournalRow("alice/p1", "alice", State.ACCEPTED, reply, b"h", b"{", 0.0, 0.0, 0.0)
    service._handle(Restored((row,)))  # it ends at once
    assert done == ["commit"]
    service._handle(Tick())
    assert done[-1] == "tidy"
    assert done.count("tidy") == 1


def test_the_service_connects_and_ends_when_the_session_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(service._mqtt, "start", lambda: started.append(True))
    service._handle(Ready(1.0, 1.0))
    service._perform((GoOnline(),))
    assert started == [True, True]
    assert service._running
    service._perform((Exit(),))
    assert not service._running
    assert service._failure is None


def test_what_the_session_gives_up_with_is_raised_after_everything_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    error = EdgekitError("it cannot be")
    monkeypatch.setattr(service._worker, "start", lambda: service._perform((GiveUp(error),)))
    monkeypatch.setattr(service._worker, "stop", lambda: closed.append("worker"))
    monkeypatch.setattr(service._journal, "close", lambda: closed.append("journal"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(EdgekitError, match="it cannot be"):
        service.run()
    assert closed == ["journal", "worker"]


def test_a_ready_file_that_cannot_be_written_is_an_event_and_complained_of_once(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Ready(1.0, 1.0)
    service._ready_file = tmp_path / "absent" / "ready"
    service._perform((SayReady(model),))
    service._perform((SayReady(model, again=True),))
    assert list(service._events) == [ReadyUnsaid(), ReadyUnsaid()]
    assert caplog.text.count("cannot be written") == 1
    service._ready_file.parent.mkdir()
    service._perform((SayReady(model, again=True),))
    assert b'"release":"sha256:r"' in service._ready_file.read_bytes()


def test_the_journal_is_tidied_at_the_end_as_well(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(service._journal, "tidy", lambda: done.append("tidy"))
    service._handle(Stopped())
    assert done == ["tidy"]


def test_what_home_assistant_is_shown_is_remembered_until_it_is_taken_back(
    service: Service, tmp_path: Path
) -> None:
    mark = tmp_path / "home-assistant"
    service._note_shown()
    assert not mark.exists(), "off by default"
    service._config = AgentConfig("pi", home_assistant=True)
    service._note_shown()
    service._note_shown()
    assert mark.exists()
    for _ in range(2):
        service._act(ForgetShown())
    assert not mark.exists()
