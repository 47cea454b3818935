"""A device that is hot, short of memory or of disk: what it says, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.agent.serve.loop.sensors import read_sensors
from edgekit.agent.serve.session.condition import (
    COOLER_C,
    DISK_MB,
    FREER_MB,
    HOT_C,
    ROOMIER_MB,
    SPENT_MB,
    STRAINED_RETRY_MS,
    TIGHT_MB,
    WARM_C,
    Level,
    level,
)
from edgekit.agent.serve.session.events import Connected, Readings
from tests.harness.session import Agent, error, kinds, statuses, to_worker

PLENTY = 10_000


def at(agent: Agent, *, temp: int = 40, memory: int = PLENTY, disk: int = PLENTY) -> str:
    """The sensors read so; the state that a newcomer hears."""
    agent.handle(Readings(temp, memory, disk))
    (status,) = statuses(agent.handle(Connected()))
    return f"{status['state']} {status.get('reason', '')}".strip()


def test_a_level_is_entered_at_its_bound_and_left_a_margin_below_it() -> None:
    levels, now = [], Level.FINE
    for strain in (84, 85, 81, 80, 85, 95, 91, 90, 81, 96, 80):
        now = level(now, strain, (85, 95), 5)
        levels.append(int(now))
    assert levels == [0, 1, 1, 0, 1, 2, 2, 1, 1, 2, 0]
    assert level(Level.SPENT, None, (85, 95), 5) is Level.FINE, "a sensor that is gone"


def test_a_warm_device_is_degraded_and_takes_only_what_starts_at_once() -> None:
    agent = Agent().ready()
    assert at(agent, temp=WARM_C - 1) == "ready"
    assert at(agent, temp=WARM_C) == "degraded thermal"
    taken = agent.prompt("p1")
    assert kinds(taken) == ["accepted"]
    assert to_worker(taken)
    refused = error(agent.prompt("p2"))
    assert (refused["code"], refused["retry_after_ms"]) == ("thermal", STRAINED_RETRY_MS)
    assert kinds(agent.prompt("p1", correlation=b"again")) == ["accepted"], "it was taken before"
    assert at(agent, temp=WARM_C - COOLER_C + 1) == "degraded thermal"
    assert at(agent, temp=WARM_C - COOLER_C) == "busy"
    assert kinds(agent.prompt("p2")) == ["accepted"]


def test_a_hot_device_takes_nothing_new_and_finishes_what_it_has_taken() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    assert at(agent, temp=HOT_C) == "degraded thermal"
    finals = agent.finishes("alice/p1")
    assert kinds(finals) == ["final"]
    assert to_worker(finals), "the one that waits was accepted"
    agent.finishes("alice/p2")
    refused = error(agent.prompt("p3"))
    assert (refused["code"], refused["retry_after_ms"]) == ("thermal", STRAINED_RETRY_MS)
    assert str(HOT_C) in refused["message"]
    assert at(agent, temp=HOT_C - COOLER_C) == "degraded thermal"
    assert kinds(agent.prompt("p3")) == ["accepted"]


def test_a_device_short_of_memory_is_degraded_then_refuses() -> None:
    agent = Agent().ready()
    assert at(agent, memory=TIGHT_MB) == "degraded out_of_memory"
    assert kinds(agent.prompt("p1")) == ["accepted"]
    assert error(agent.prompt("p2"))["code"] == "out_of_memory"
    agent.finishes()
    assert at(agent, memory=SPENT_MB) == "degraded out_of_memory"
    refused = error(agent.prompt("p3"))
    assert refused["code"] == "out_of_memory"
    assert refused["retry_after_ms"] > STRAINED_RETRY_MS  # another time than that of p2
    assert at(agent, memory=TIGHT_MB + FREER_MB) == "ready"
    assert kinds(agent.prompt("p3")) == ["accepted"]


def test_what_strains_more_is_the_reason() -> None:
    agent = Agent().ready()
    assert at(agent, temp=WARM_C, memory=SPENT_MB) == "degraded out_of_memory"
    assert error(agent.prompt("p1"))["code"] == "out_of_memory"
    assert at(agent, temp=HOT_C, memory=TIGHT_MB) == "degraded thermal"
    assert error(agent.prompt("p1"))["code"] == "thermal"


def test_a_disk_that_is_nearly_full_takes_no_prompt_and_still_stores_outcomes() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    assert at(agent, disk=DISK_MB) == "read_only"
    assert error(agent.prompt("p2"))["code"] == "no_storage"
    assert kinds(agent.finishes()) == ["final"]
    assert agent.disk["alice/p1"].outcome is not None
    assert at(agent, disk=DISK_MB + ROOMIER_MB - 1) == "read_only"
    assert at(agent, disk=DISK_MB + ROOMIER_MB) == "ready"
    assert kinds(agent.prompt("p2")) == ["accepted"]


def test_a_prompt_for_another_model_is_refused_for_good_whatever_the_weather() -> None:
    agent = Agent().ready()
    at(agent, temp=HOT_C)
    other = {"messages": [{"role": "user", "content": "Hi"}], "model": "other"}
    assert error(agent.prompt("p1", body=other))["code"] == "model_not_found"


@pytest.mark.parametrize("disk", [Path("/"), Path("/nowhere/at/all")])
def test_free_disk_is_measured_where_there_is_one(disk: Path, tmp_path: Path) -> None:
    room = read_sensors(tmp_path, tmp_path / "none", disk).disk_free_mb
    assert room is None if "nowhere" in str(disk) else room is not None and room >= 0
