"""What a status says beside its state: since when, how warm, how much memory."""

from __future__ import annotations

from edgekit.agent.serve.session.events import Connected, Disconnected, Readings, Tick
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
