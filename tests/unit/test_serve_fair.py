"""Who is next, whom a slot is kept free for, and what follows for who comes now."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.pipe import Ready, Start
from edgekit.agent.serve.session.condition import WARM_C
from edgekit.agent.serve.session.events import Disconnected, Effect, Readings, Tick, WorkerLost
from edgekit.agent.serve.session.prompts import LATELY_SECONDS
from tests.harness.session import Agent, done, error, kinds, replies, to_worker

WARM, COOL = Readings(WARM_C, None), Readings(40, None)


def started(effects: tuple[Effect, ...]) -> list[str]:
    return [message.key for message in to_worker(effects) if isinstance(message, Start)]


def held() -> Agent:
    """Of two slots alice has one, and a prompt that waits: the other slot is kept for bob."""
    agent = Agent(queue_limit=8).ready(slots=2)
    agent.prompt("b0", who="bob")
    agent.finishes("bob/b0")
    agent.prompt("a0")
    assert started(agent.prompt("a1")) == []
    return agent


def test_while_others_ask_as_well_one_requester_leaves_a_slot_to_them() -> None:
    agent = Agent(queue_limit=8).ready(slots=3)
    for number in range(4):
        agent.prompt(f"a{number}")
    assert len(agent.session._prompts.running) == 3  # nobody else has asked
    agent.prompt("b0", who="bob")
    agent.finishes("alice/a0")
    assert set(agent.session._prompts.running) == {"alice/a1", "alice/a2", "bob/b0"}
    agent.finishes("bob/b0")
    assert set(agent.session._prompts.running) == {"alice/a1", "alice/a2"}  # bob may come back
    (start,) = to_worker(agent.prompt("b1", who="bob"))
    assert isinstance(start, Start)
    assert start.key == "bob/b1"
    agent.finishes("alice/a1")
    assert "alice/a3" in agent.session._prompts.running


def test_who_asks_rarely_is_before_who_floods_and_not_before_who_waits() -> None:
    agent = Agent(queue_limit=8).ready()
    for number in range(4):
        agent.prompt(f"a{number}")
    order: list[str] = []
    for who in ("bob", "carol", "bob"):
        agent.prompt(f"x{len(order)}", who=who)
        (running,) = agent.session._prompts.running
        (start,) = to_worker(agent.finishes(running))
        assert isinstance(start, Start)
        order.append(start.requester)
    assert order == ["bob", "carol", "alice"]  # bob has just had a turn


# --- for how long a slot is kept --------------------------------------------------------------
@pytest.mark.parametrize("delivered", [True, False])
def test_a_slot_is_kept_for_who_asked_lately_and_not_for_a_stored_answer(delivered: bool) -> None:
    agent = Agent(queue_limit=8).ready(slots=2)
    agent.prompt("b0", who="bob")
    agent.acknowledged(agent.finishes("bob/b0"), code=0 if delivered else None)
    agent.prompt("a0", expiry_seconds=300)
    assert started(agent.prompt("a1", expiry_seconds=300)) == []
    assert started(agent.handle(Tick(), after=LATELY_SECONDS)) == []
    assert started(agent.handle(Tick(), after=0.1)) == ["alice/a1"]
    assert "bob/b0" in agent.disk


def test_a_slot_is_kept_for_whose_prompt_has_not_ended_however_old_it_is() -> None:
    agent = Agent(queue_limit=8).ready(slots=3)
    agent.prompt("b0", who="bob", expiry_seconds=3600)
    for number in range(3):
        agent.prompt(f"a{number}", expiry_seconds=3600)
    assert started(agent.handle(Tick(), after=10 * LATELY_SECONDS)) == []
    assert started(agent.finishes("bob/b0")) == ["alice/a2"]


# --- who comes now ----------------------------------------------------------------------------
def test_a_warm_device_takes_who_a_slot_is_kept_for_and_nobody_who_waits() -> None:
    agent = held()
    agent.handle(WARM)
    assert error(agent.prompt("a2"))["code"] == "thermal"
    taken = agent.prompt("b1", who="bob")
    assert kinds(taken) == ["accepted"]
    assert started(taken) == ["bob/b1"]


def test_one_requester_s_waiting_prompts_do_not_keep_another_from_a_free_slot() -> None:
    agent = held()
    agent.handle(COOL)
    for number in range(2, 5):
        agent.prompt(f"a{number}")
    assert error(agent.prompt("a5"))["code"] == "queue_full"
    assert started(agent.prompt("b1", who="bob")) == ["bob/b1"]


def test_a_queue_that_is_full_of_who_may_not_start_takes_who_may() -> None:
    agent = Agent(queue_limit=1).ready(slots=2)
    agent.prompt("b0", who="bob")
    agent.finishes("bob/b0")
    agent.prompt("a0")
    agent.prompt("a1")
    assert started(agent.prompt("b1", who="bob")) == ["bob/b1"]
    assert error(agent.prompt("b2", who="bob"))["code"] == "queue_full"


def test_a_slot_whose_prompt_was_forgotten_is_not_free_before_the_worker_says_so() -> None:
    agent = Agent().ready()
    agent.acknowledged(agent.prompt("p1"), code=0x10)
    agent.handle(WARM)
    assert error(agent.prompt("p2"))["code"] == "thermal"
    agent.handle(done("alice/p1", "cancelled"))
    assert started(agent.prompt("p2")) == ["alice/p2"]


def test_while_one_runs_alone_nothing_starts_at_once() -> None:
    agent = Agent().ready(slots=2)
    agent.prompt("p1")
    agent.handle(WorkerLost())
    agent.handle(Ready(1.0, 1.0, 2))
    agent.handle(WARM)
    assert error(agent.prompt("p2"))["code"] == "thermal"
    agent.handle(COOL)
    (accepted,) = replies(agent.prompt("p2"))
    assert json.loads(accepted.payload)["position"] == 1


def test_the_position_knows_for_whom_a_slot_is_kept() -> None:
    agent = held()
    positions = [
        json.loads(replies(effects)[0].payload)["position"]
        for effects in (
            agent.query("a1"),  # a slot is free, and not for this one
            agent.prompt("a2"),
            agent.prompt("b1", who="bob"),  # before both
            agent.prompt("b2", who="bob"),
        )
    ]
    assert positions == [1, 2, 0, 2]


STEPS = st.one_of(
    st.tuples(st.just("prompt"), st.sampled_from(["alice", "bob", "carol"])),
    st.tuples(st.just("ends"), st.integers(0, 3)),
    st.tuples(st.just("forgotten"), st.integers(0, 3)),
    st.tuples(st.just("passes"), st.sampled_from([0.5, 20.0, 59.0, 61.0])),
    st.tuples(st.just("dies"), st.integers(1, 4)),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 4), st.lists(STEPS, max_size=30))
def test_what_is_taken_as_to_start_at_once_does_and_nothing_else_would(
    slots: int, steps: list[tuple[str, object]]
) -> None:
    agent = Agent(queue_limit=8).ready(slots=slots)
    agent.handle(Disconnected())
    for number, (what, value) in enumerate(steps):
        running = sorted(agent.session._prompts.running)
        if what == "prompt":
            warm, key = deepcopy(agent), f"{value}/p{number}"
            warm.session._condition.update(WARM)
            taken = kinds(warm.prompt(f"p{number}", who=str(value), expiry_seconds=90))
            effects = agent.prompt(f"p{number}", who=str(value), expiry_seconds=90)
            assert (taken == ["accepted"]) == (key in started(effects))
        elif what == "passes":
            agent.handle(Tick(), after=float(str(value)))
        elif what == "dies":
            agent.handle(WorkerLost())
            agent.handle(Ready(1.0, 1.0, int(str(value))))
        elif running:
            prompt = agent.session._prompts.running[running[int(str(value)) % len(running)]]
            if what == "ends":
                agent.handle(done(prompt.key))
            else:
                agent.session._prompts.abandon(prompt)
