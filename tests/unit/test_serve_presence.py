"""What a status says beside its state: since when, how warm, how much memory."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from edgekit.agent.serve.session.events import (
    Connected,
    Disconnected,
    Effect,
    ForgetShown,
    Publish,
    Published,
    Readings,
    Tick,
    Warn,
)
from edgekit.agent.serve.session.presence import MOST_LOST
from edgekit.core.protocol import topics
from edgekit.core.protocol.discovery import discovery, object_id
from edgekit.core.protocol.reasons import NOT_AUTHORIZED
from tests.harness.session import Agent, statuses

EPOCH = 1e9  # of the harness: Unix seconds less those of its clock


def since(agent: Agent, after: float = 31.0) -> int:
    """What the next regular status says."""
    (status,) = statuses(agent.handle(Tick(), after=after))
    return int(status["since"])


def test_a_status_says_since_when_the_device_serves() -> None:
    agent = Agent().ready()
    began = int(EPOCH + agent.now)
    assert since(agent) == began
    agent.prompt()
    (busy,) = statuses(agent.handle(Tick(), after=1))
    assert (busy["state"], busy["since"]) == ("busy", began)  # it goes on serving
    agent.finishes()
    assert since(agent) == began


def test_another_state_begins_when_it_begins_also_without_a_broker() -> None:
    agent = Agent().ready()
    agent.handle(Disconnected(), after=10)
    agent.handle(Readings(90, None), after=10)
    hot = int(EPOCH + agent.now)
    (status,) = statuses(agent.handle(Connected(), after=50))
    assert (status["state"], status["since"]) == ("degraded", hot)


def test_a_clock_that_is_set_moves_what_was_said_before_it() -> None:
    agent = Agent().ready()
    began = agent.now
    (status,) = statuses(agent.handle(Tick(2e9), after=31))
    assert status["since"] == int(2e9 + began)


def test_new_readings_alone_are_no_new_status() -> None:
    agent = Agent().ready()
    assert statuses(agent.handle(Readings(50, 1000, None, 8000), after=5)) == []
    (status,) = statuses(agent.handle(Tick(), after=26))
    assert (status["temp_c"], status["mem_free_mb"], status["mem_total_mb"]) == (50, 1000, 8000)


# --- Home Assistant -------------------------------------------------------------------------------
ENTRY = topics.discovery_topic(object_id("pi"))


def entries(effects: Sequence[Effect]) -> list[Publish]:
    return [e for e in effects if isinstance(e, Publish) and e.message.topic == ENTRY]


def test_a_device_that_is_not_to_be_shown_publishes_nothing() -> None:
    agent = Agent()
    assert entries(agent.handle(Connected())) == []


def test_a_device_shows_itself_at_each_connection() -> None:
    agent = Agent(home_assistant=True)
    for _ in range(2):
        (entry,) = entries(agent.handle(Connected()))
        assert entry.message.retain
        assert entry.message.payload == discovery("pi", "smollm2", "1", "a1")
        assert json.loads(entry.message.payload)["dev"]["model"] == "smollm2:1"
        agent.handle(Published(entry, 0))
        agent.handle(Disconnected())


def test_a_broker_that_refuses_it_is_said_once() -> None:
    agent = Agent(home_assistant=True)
    (entry,) = entries(agent.handle(Connected()))
    said = agent.handle(Published(entry, NOT_AUTHORIZED))
    assert [ENTRY in e.text for e in said if isinstance(e, Warn)] == [True]
    assert agent.snapshot().refused == ((ENTRY, NOT_AUTHORIZED),)


def test_what_was_shown_is_taken_back_until_the_broker_has_it() -> None:
    agent = Agent(shown=True)
    for code in (None, NOT_AUTHORIZED):
        (entry,) = entries(agent.handle(Connected()))
        assert (entry.message.payload, entry.message.retain) == (b"", True)
        assert ForgetShown() not in agent.handle(Published(entry, code))
        agent.handle(Disconnected())
    (entry,) = entries(agent.handle(Connected()))
    assert ForgetShown() in agent.handle(Published(entry, 0))
    agent.handle(Disconnected())
    assert entries(agent.handle(Connected())) == []


@pytest.mark.parametrize("on", [True, False])
def test_a_broker_that_ends_the_connection_for_it_is_not_asked_for_ever(on: bool) -> None:
    agent = Agent(home_assistant=on, shown=True)
    said: list[Effect] = []
    for _ in range(MOST_LOST):
        (entry,) = entries(agent.handle(Connected()))
        said += agent.handle(Published(entry, None))
        agent.handle(Disconnected())
    assert [e.text.startswith(ENTRY) for e in said if isinstance(e, Warn)] == [True]
    assert entries(agent.handle(Connected())) == []
