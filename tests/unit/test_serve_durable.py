"""What the session does so that nothing is lost: journal first, one outcome, stored and sent until
it is acknowledged; deaths of agent, worker, connection and disk in between."""

from __future__ import annotations

import json

import msgspec
import pytest

from edgekit.agent.serve.pipe import Generated, Ready
from edgekit.agent.serve.session.dispatch import MAX_STARTS
from edgekit.agent.serve.session.events import (
    Ack,
    Connected,
    Disconnected,
    Drain,
    Publish,
    Record,
    Tick,
    WorkerLost,
)
from edgekit.agent.serve.session.ledger import (
    REFUSED_RETRY_SECONDS,
)
from edgekit.agent.serve.session.prompt import KEEP_SECONDS, UNSENT_KEEP_SECONDS
from edgekit.agent.serve.session.states import State
from tests.harness.session import BODY, Agent, error, kinds, replies, states, the_start, to_worker


# --- the journal comes first ------------------------------------------------------------------
def test_a_prompt_is_on_the_disk_before_anybody_is_told_and_before_its_puback() -> None:
    effects = Agent().ready().prompt()
    order = [type(effect) for effect in effects]
    assert order.index(Record) < order.index(Publish)
    assert order.index(Record) < order.index(Ack)
    (record,) = [e for e in effects if isinstance(e, Record)]
    assert (record.row.key, record.row.state, record.row.starts) == ("alice/p1", State.RUNNING, 1)
    assert json.loads(record.row.payload) == BODY


def test_an_outcome_is_stored_in_the_same_breath_and_the_words_of_the_prompt_are_not_kept() -> None:
    agent = Agent().ready()
    agent.prompt()
    final = agent.finishes()
    row = agent.disk["alice/p1"]
    assert (row.state, row.sent, row.payload) == (State.DONE, False, b"")
    assert row.outcome is not None
    assert row.outcome.payload == replies(final)[0].payload
    agent.acknowledged(final)
    assert not agent.disk["alice/p1"].sent  # that can wait
    agent.handle(Tick(), after=0.5)
    assert agent.disk["alice/p1"].sent


def test_an_outcome_is_kept_ten_minutes_or_until_the_prompt_expires() -> None:
    agent = Agent().ready()
    agent.prompt("short")
    agent.acknowledged(agent.finishes("alice/short"))
    agent.prompt("long", expiry_seconds=3600)
    agent.acknowledged(agent.finishes("alice/long"))
    agent.handle(Tick(), after=KEEP_SECONDS - 1)
    assert set(agent.disk) == {"alice/short", "alice/long"}
    agent.handle(Tick(), after=1)
    assert set(agent.disk) == {"alice/long"}
    agent.handle(Tick(), after=3600 - KEEP_SECONDS)
    assert agent.disk == {}


def test_a_final_that_the_broker_refused_is_sent_again_after_a_while() -> None:
    agent = Agent().ready()
    agent.prompt()
    final = agent.finishes()
    agent.acknowledged(final, code=0x97)
    assert replies(agent.handle(Tick(), after=REFUSED_RETRY_SECONDS - 1)) == []
    again = agent.handle(Tick(), after=1)
    assert [r.payload for r in replies(again)] == [replies(final)[0].payload]
    agent.acknowledged(again)
    assert replies(agent.handle(Tick(), after=60)) == []


def test_a_final_that_no_broker_has_acknowledged_is_kept_a_day_longer() -> None:
    agent = Agent().ready()
    agent.prompt()
    agent.handle(Disconnected())
    agent.finishes()
    agent.handle(Tick(), after=UNSENT_KEEP_SECONDS)
    agent = agent.restarted().ready()
    (final,) = replies(agent.handle(Connected()))
    assert dict(final.user)["ek-kind"] == "final"
    agent.handle(Disconnected())
    agent.handle(Tick(), after=KEEP_SECONDS)
    assert agent.disk == {}


def test_a_prompt_that_ran_and_expires_before_it_runs_again_is_an_error_that_is_sent() -> None:
    agent = Agent().ready()
    agent.prompt(expiry_seconds=20)
    agent.handle(WorkerLost())
    assert error(agent.handle(Tick(), after=20))["code"] == "deadline_exceeded"
    agent = Agent().ready()
    agent.prompt(expiry_seconds=20)
    agent.now += 20
    agent = agent.restarted()
    assert error(agent.handle(Connected()))["code"] == "deadline_exceeded"


# --- the same prompt again --------------------------------------------------------------------
def test_a_duplicate_of_an_ended_prompt_gets_the_stored_final_at_its_new_address() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    first = agent.finishes()
    agent.acknowledged(first)
    again = agent.prompt("p1", correlation=b"new", response_topic="edgekit/v1/res/alice/other")
    assert to_worker(again) == []
    (stored,) = replies(again)
    assert stored.payload == replies(first)[0].payload
    assert (stored.topic, stored.correlation) == ("edgekit/v1/res/alice/other", b"new")


def test_an_ended_prompt_s_id_with_another_body_is_a_conflict() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.finishes()
    assert error(agent.prompt("p1", body=BODY | {"seed": 1}))["code"] == "id_conflict"


def test_without_an_ek_id_the_correlation_may_be_used_for_the_next_prompt() -> None:
    agent = Agent().ready()
    agent.prompt("")
    assert error(agent.prompt("", body=BODY | {"seed": 1}))["code"] == "id_conflict"
    agent.finishes("alice/0102")
    assert kinds(agent.prompt("", body=BODY | {"seed": 1})) == ["accepted"]


def test_a_duplicate_of_a_running_prompt_moves_its_answer_also_across_a_restart() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p1", correlation=b"new")
    again = agent.restarted().ready()
    assert replies(again.finishes())[0].correlation == b"new"


def test_what_was_handed_back_starts_anew_when_it_comes_again() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    assert kinds(agent.handle(Drain(agent.now))) == ["error", "error"]
    again = agent.restarted()
    sent = [dict(m.user)["ek-id"] for m in replies(again.ready().handle(Connected()))]
    assert sent == ["p1", "p2"]  # nobody has acknowledged them
    assert kinds(again.prompt("p2")) == ["accepted"]
    assert kinds(again.finishes("alice/p2")) == ["final"]


# --- the agent's deaths -----------------------------------------------------------------------
def test_after_a_restart_waiting_and_running_prompts_go_on_in_their_order() -> None:
    agent = Agent().ready()
    for prompt_id in ("p1", "p2", "p3"):
        agent.prompt(prompt_id)
    again = agent.restarted()
    assert the_start(again.handle(Ready(1, 1))).key == "alice/p1"
    again.handle(Connected())
    for prompt_id in ("p1", "p2", "p3"):
        assert dict(replies(again.finishes(f"alice/{prompt_id}"))[0].user)["ek-id"] == prompt_id


def test_a_prompt_that_ran_before_the_restart_sends_only_its_final() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    again = agent.restarted().ready()
    assert kinds(again.handle(Generated("alice/p1", "Hel"))) == []
    assert kinds(again.finishes("alice/p1")) == ["final"]
    assert kinds(again.handle(Generated("alice/p2", "Hel"))) == ["delta"]


def test_an_unacknowledged_final_is_sent_again_at_every_connection_until_it_is() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    final = agent.finishes()
    agent.acknowledged(final, code=None)  # the connection was lost first
    agent.handle(Disconnected())
    assert replies(agent.handle(Tick(), after=1)) == []
    for one in (agent, agent.restarted()):
        again = one.ready().handle(Connected())
        assert [m.payload for m in replies(again)] == [replies(final)[0].payload]
    agent.acknowledged(again)
    agent.handle(Tick())
    assert replies(agent.handle(Connected())) == []
    assert replies(agent.restarted().ready().handle(Connected())) == []


def test_a_final_that_was_made_while_there_was_no_connection_comes_with_it() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(Disconnected())
    assert replies(agent.handle(Generated("alice/p1", "x"))) == []
    assert replies(agent.finishes()) == []
    assert kinds(agent.handle(Connected())) == ["final"]


def test_a_prompt_whose_time_ran_out_while_the_agent_was_away_is_not_started() -> None:
    agent = Agent().ready()
    agent.prompt("p1", expiry_seconds=5)
    agent.now += 6
    again = agent.restarted()
    assert to_worker(again.handle(Ready(1, 1))) == []
    assert states(again) == {"p1": State.EXPIRED}


def test_a_prompt_during_which_the_agent_died_too_often_is_given_up() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    for _ in range(MAX_STARTS - 1):
        agent = agent.restarted()
        assert the_start(agent.handle(Ready(1, 1))).key == "alice/p1"
    agent = agent.restarted()
    assert to_worker(agent.handle(Ready(1, 1))) == []
    (refused,) = replies(agent.handle(Connected()))
    assert json.loads(refused.payload)["error"]["code"] == "worker_crashed"


def test_a_release_that_serves_less_refuses_what_the_one_before_took() -> None:
    agent = Agent().ready()
    agent.prompt("p1", body=BODY | {"model": "smollm2"})
    row = agent.disk["alice/p1"]
    agent.disk["alice/p1"] = type(row)(
        **{f: getattr(row, f) for f in row.__struct_fields__}
        | {"payload": row.payload.replace(b"smollm2", b"another")}
    )
    again = agent.restarted().ready()
    assert states(again) == {"p1": State.FAILED}


@pytest.mark.parametrize(
    "address",
    [
        {"topic": "edgekit/v1/res/alice/\u0001"},
        {"topic": "edgekit/v1/res/alice/" + "/" * 250},
        {"topic": "edgekit/v1/res/bob/1"},
        {"prompt_id": "p\uffff"},
    ],
    ids=["characters", "levels", "another's", "id"],
)
def test_what_an_earlier_agent_took_and_no_broker_lets_us_answer_is_dropped(
    address: dict[str, str],
) -> None:
    agent = Agent().ready()
    for prompt_id in ("ended", "running", "waiting"):
        agent.prompt(prompt_id)
    agent.finishes("alice/ended")  # and no PUBACK came
    agent.prompt("good", who="bob")
    for key, row in agent.disk.items():
        if row.requester == "alice":
            reply = msgspec.structs.replace(row.reply, **address)
            agent.disk[key] = msgspec.structs.replace(row, reply=reply)
    again = agent.restarted()
    assert the_start(again.handle(Ready(1, 1))).key == "bob/good"
    assert replies(again.handle(Connected())) == []
    assert kinds(again.finishes("bob/good")) == ["final"]
    again.handle(Tick())
    assert set(again.disk) == {"bob/good"}
    assert again.ignored == 3
