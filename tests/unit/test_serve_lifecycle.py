"""From the start to the end of an agent: when it connects, says that it is ready, and gives up."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import pytest

from edgekit.agent.serve.pipe import Generated, Ready
from edgekit.agent.serve.session.dispatch import MAX_FAILED_LOADS
from edgekit.agent.serve.session.events import (
    CheckStorage,
    Connected,
    Disconnected,
    Effect,
    Event,
    GiveUp,
    GoOnline,
    Published,
    ReadSensors,
    ReadyUnsaid,
    SayReady,
    Snapshot,
    Spawn,
    Stopped,
    StorageBack,
    TakenOver,
    Tick,
    WorkerLost,
)
from edgekit.agent.serve.session.session import MEASURE_SECONDS, Session
from edgekit.errors import TakenOverError
from tests.harness.session import Agent, replies, statuses

MODEL = Ready(1.0, 1.0)


def those(effects: Sequence[Effect], *kinds: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kinds)]


def test_handle_is_the_only_method_of_a_session() -> None:
    shown = {name for name, _ in inspect.getmembers(Session) if not name.startswith("_")}
    given = {
        "config",
        "bundle",
        "release",
        "agent_version",
        "epoch",
        "takes_pictures",
        "chat",
        "shown",
    }
    assert shown == {"handle", *given}


# --- the start --------------------------------------------------------------------------------
def test_the_agent_connects_once_when_its_first_model_is_ready() -> None:
    agent = Agent()
    before: tuple[Event, ...] = (Tick(), WorkerLost(), Tick())
    for event in before:
        assert those(agent.handle(event, after=1), GoOnline) == []
    assert those(agent.handle(MODEL), GoOnline) == [GoOnline()]
    agent.handle(Connected())
    after: tuple[Event, ...] = (WorkerLost(), MODEL, Disconnected(), MODEL)
    for event in after:
        assert those(agent.handle(event), GoOnline) == []


def test_the_agent_is_ready_at_every_connection_with_the_model_that_it_has_then() -> None:
    agent = Agent()
    assert those(agent.handle(MODEL), SayReady) == []
    assert those(agent.handle(Connected()), SayReady) == [SayReady(MODEL)]
    agent.handle(WorkerLost())
    smaller = Ready(2.0, 2.0, context_length=64)
    assert those(agent.handle(smaller), SayReady) == []
    assert those(agent.handle(Connected()), SayReady) == [SayReady(smaller)]


def test_a_ready_file_that_cannot_be_written_is_tried_in_every_tick_until_it_is() -> None:
    agent = Agent().ready()
    assert those(agent.handle(Tick(), after=0.5), SayReady) == []
    for _ in range(3):
        agent.handle(ReadyUnsaid())
        assert those(agent.handle(Tick(), after=0.5), SayReady) == [SayReady(MODEL, again=True)]
    assert those(agent.handle(Tick(), after=0.5), SayReady) == []


def test_a_model_that_never_loads_ends_the_agent_after_some_attempts() -> None:
    agent = Agent()
    for _ in range(MAX_FAILED_LOADS - 1):
        assert those(agent.handle(WorkerLost()), Spawn, GiveUp) == [Spawn(1.0)]
    (gives_up,) = those(agent.handle(WorkerLost()), Spawn, GiveUp)
    assert isinstance(gives_up, GiveUp)
    assert f"ended {MAX_FAILED_LOADS} times before it had answered" in gives_up.error.what
    assert gives_up.error.exit_code == 1


def test_a_model_that_was_loaded_once_is_loaded_again_however_often_it_ends() -> None:
    agent = Agent().ready()
    for _ in range(3 * MAX_FAILED_LOADS):
        assert those(agent.handle(WorkerLost()), Spawn, GiveUp) == [Spawn(1.0)]


# --- how it is --------------------------------------------------------------------------------
def test_how_the_agent_is_stands_in_every_tick_and_nowhere_else() -> None:
    agent = Agent()
    told = agent.snapshot()
    assert (told.status.state, told.connected, told.answers, told.owed) == (
        *("starting", False, False),
        True,
    )
    agent.ready()
    told = agent.snapshot()
    assert (told.status.state, told.connected, told.answers, told.owed) == (
        *("ready", True, True),
        False,
    )
    assert those([*agent.prompt(), *agent.handle(Generated("alice/p1", "x"))], Snapshot) == []
    agent.handle(Disconnected())
    told = agent.snapshot()
    assert (told.status.state, told.connected, told.answers, told.owed) == (
        *("busy", False, True),
        True,
    )


def test_a_snapshot_stays_as_it_is_while_the_agent_goes_on() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.finishes("alice/p1")
    before = agent.snapshot()
    kept = repr(before)
    agent.prompt("p2")
    agent.finishes("alice/p2")
    assert repr(before) == kept
    assert repr(agent.snapshot()) != kept


def test_the_device_is_measured_every_few_seconds() -> None:
    agent = Agent().ready()
    measured = [bool(those(agent.handle(Tick(), after=0.5), ReadSensors)) for _ in range(31)]
    apart = int(MEASURE_SECONDS / 0.5)
    assert [number for number, found in enumerate(measured) if found] == [
        0,
        *range(apart, 31, apart),
    ]


# --- the end ----------------------------------------------------------------------------------
def test_another_client_of_the_same_name_ends_the_agent_with_an_error_of_its_own() -> None:
    agent = Agent().ready()
    agent.prompt()
    (gives_up,) = those(agent.handle(TakenOver()), GiveUp)
    assert isinstance(gives_up, GiveUp)
    assert isinstance(gives_up.error, TakenOverError)
    assert "as pi" in gives_up.error.what
    assert agent.disk["alice/p1"].outcome is None, "the next agent answers it"


def test_at_its_end_the_agent_notes_what_could_wait_and_says_nothing() -> None:
    agent = Agent().ready()
    agent.prompt()
    final = agent.finishes()
    agent.handle(Disconnected())
    agent.acknowledged(final)
    assert not agent.disk["alice/p1"].sent
    agent.handle(ReadyUnsaid())
    last = agent.handle(Stopped(), after=60)
    assert agent.disk["alice/p1"].sent
    assert those(last, SayReady, GoOnline, Snapshot) == []
    assert (replies(last), statuses(last)) == ([], [])


def test_at_its_end_the_agent_tries_its_journal_once_more() -> None:
    agent = Agent().ready()
    agent.prompt()
    agent.disk_full = True
    agent.finishes()
    agent.disk_full = False
    agent.handle(Disconnected())
    assert those(agent.handle(Stopped()), CheckStorage) == [CheckStorage()]
    agent.handle(StorageBack())
    assert agent.disk["alice/p1"].outcome is not None


# --- delivery ---------------------------------------------------------------------------------
def test_an_outcome_whose_address_changed_while_the_disk_was_full_is_sent_there() -> None:
    agent = Agent().ready()
    agent.prompt()
    final = agent.finishes()  # and its PUBACK is on its way
    agent.prompt("other")
    agent.disk_full = True
    agent.finishes("alice/other")
    assert replies(agent.prompt("p1", correlation=b"new")) == []
    agent.acknowledged(final)  # at the old address, where nobody is any more
    agent.disk_full = False
    sent = replies(agent.handle(StorageBack()))
    assert [message.correlation for message in sent] == [b"new", b"other"]


@pytest.mark.parametrize("code", [0, 0x97, None])
def test_an_outcome_that_was_delivered_stays_so_whatever_becomes_of_a_copy(
    code: int | None,
) -> None:
    agent = Agent().ready()
    agent.prompt()
    agent.acknowledged(agent.finishes())
    copy = agent.query()
    (asked,) = [effect for effect in copy if getattr(effect, "key", "")]
    agent.handle(Published(asked, code))  # type: ignore[arg-type]  # it is a Publish
    assert replies(agent.handle(Tick(), after=60)) == []
    assert replies(agent.handle(Connected())) == []
    assert agent.disk["alice/p1"].sent
