"""The session: how long a requester waits, and what a query tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.agent.serve.session.events import (
    Tick,
    ToWorker,
)
from edgekit.core.protocol import topics
from tests.harness.session import Agent, done, error, kinds, replies, the_start


# --- the waiting ------------------------------------------------------------------------------
def test_a_requester_with_many_prompts_does_not_keep_the_others_waiting() -> None:
    agent = Agent(queue_limit=8).ready()
    for number in range(4):
        agent.prompt(f"a{number}")
    agent.prompt("b0", who="bob")
    agent.prompt("b1", who="bob")
    order = ["alice/a0"]
    for _ in range(5):
        order.append(the_start(agent.finishes(order[-1])).key)
    assert order == [
        f"alice/{x}" if x[0] == "a" else f"bob/{x}" for x in ["a0", "b0", "a1", "b1", "a2", "a3"]
    ]


def test_one_requester_cannot_fill_the_queue() -> None:
    agent = Agent(queue_limit=8, requester_limit=3).ready()
    for number in range(4):
        assert kinds(agent.prompt(f"a{number}")) == ["accepted"]
    refused = error(agent.prompt("a4"))
    assert refused["code"] == "queue_full"
    assert refused["retry_after_ms"] > 0
    assert kinds(agent.prompt("b0", who="bob")) == ["accepted"]


def test_accepted_estimates_the_wait_once_there_is_a_measure() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    assert "eta_ms" not in json.loads(replies(agent.prompt("p2"))[0].payload)
    agent.handle(done("alice/p1"), after=4.0)
    body = json.loads(replies(agent.prompt("p3"))[0].payload)
    assert body == {"position": 1, "eta_ms": 4000}


# --- query ------------------------------------------------------------------------------------
ASK: dict[str, Any] = {"response_topic": "edgekit/v1/res/alice/q", "correlation": b"q"}


def test_a_query_tells_the_state_while_there_is_no_outcome_and_then_the_outcome() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    told = []
    for prompt_id in ("p1", "p2"):
        (message,) = replies(agent.query(prompt_id, **ASK))
        assert (message.topic, message.correlation) == ("edgekit/v1/res/alice/q", b"q")
        assert dict(message.user)["ek-kind"] == "state"
        told.append(json.loads(message.payload))
    assert told == [{"state": "running", "position": 0}, {"state": "accepted", "position": 1}]
    final = agent.finishes()
    (stored,) = replies(agent.query("p1", **ASK))
    assert stored.payload == replies(final)[0].payload
    assert stored.correlation == b"q"
    assert replies(agent.query("p1"))[0].correlation == b"p1"  # where its prompt was answered


def test_a_query_for_what_is_not_known_says_so_on_the_device_s_own_topic_only() -> None:
    agent = Agent().ready()
    assert json.loads(replies(agent.query("p1", **ASK))[0].payload) == {"state": "unknown"}
    pool = topics.pool_control_topic("sensors", "alice")
    assert replies(agent.query("p1", topic=pool, **ASK)) == []
    assert replies(agent.query("p1")) == []
    assert replies(agent.query("p1", response_topic="edgekit/v1/res/bob/q")) == []


def test_an_expired_prompt_s_query_tells_what_became_of_it() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2", expiry_seconds=5)
    agent.handle(Tick(), after=5)
    (told,) = replies(agent.query("p2", **ASK))
    assert json.loads(told.payload)["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("kind", ["cancel", "query"])
def test_another_requester_learns_nothing(kind: str) -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.finishes()
    spy = {"response_topic": "edgekit/v1/res/bob/q", "correlation": b"q"}
    (told,) = replies(agent.control(kind, "p1", "bob", **spy))
    assert json.loads(told.payload) == {"state": "unknown"}


def test_a_late_cancel_gets_the_stored_final() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    final = agent.finishes()
    late = agent.cancel("p1", **ASK)
    assert [m.payload for m in replies(late)] == [replies(final)[0].payload]
    assert not [e for e in late if isinstance(e, ToWorker)]
