"""What the session does so that nothing is lost: journal first, one outcome, stored and sent until
it is acknowledged; deaths of agent, worker, connection and disk in between."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edgekit.agent.serve.pipe import Cancel, Generated, Ready, Start
from edgekit.agent.serve.session.dispatch import MAX_STARTS
from edgekit.agent.serve.session.events import (
    Ack,
    CheckStorage,
    Connected,
    Disconnected,
    Drain,
    Forget,
    Publish,
    Record,
    StorageBack,
    Tick,
    ToWorker,
    WorkerLost,
)
from edgekit.agent.serve.session.ledger import (
    MAX_BYTES,
    MAX_ROWS,
    REFUSED_RETRY_SECONDS,
    REQUESTER_SHARE,
)
from edgekit.agent.serve.session.prompt import KEEP_SECONDS, UNSENT_KEEP_SECONDS
from edgekit.agent.serve.session.session import STORAGE_CHECK_SECONDS
from edgekit.agent.serve.session.states import State
from edgekit.core import topics
from tests.harness.session import BODY, Agent, done, error, kinds, replies, statuses, to_worker


def states(agent: Agent) -> dict[str, State]:
    return {key.partition("/")[2]: row.state for key, row in agent.disk.items()}


def the_start(effects: Any) -> Start:
    (start,) = to_worker(effects)
    assert isinstance(start, Start)
    return start


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


# --- the worker's deaths, with two slots ------------------------------------------------------
def test_as_many_prompts_run_as_the_worker_has_slots() -> None:
    agent = Agent().ready(slots=2)
    first, second, third = (agent.prompt(p) for p in ("p1", "p2", "p3"))
    assert [len(to_worker(e)) for e in (first, second, third)] == [1, 1, 0]
    assert [json.loads(replies(e)[0].payload)["position"] for e in (first, second, third)] == [
        *(0, 0, 1)
    ]
    assert kinds(agent.handle(Generated("alice/p2", "x"))) == ["delta"]
    assert the_start(agent.finishes("alice/p2")).key == "alice/p3"
    assert kinds(agent.finishes("alice/p1")) == ["final"]


def test_the_card_says_how_many_run_side_by_side() -> None:
    published = [e for e in Agent().ready(slots=2).handle(Connected()) if isinstance(e, Publish)]
    assert json.loads(published[0].message.payload)["slots"] == 2


def test_who_killed_the_worker_is_found_out_by_running_alone() -> None:
    agent = Agent().ready(slots=2)
    agent.prompt("good")
    agent.prompt("bad")
    agent.handle(WorkerLost())
    assert the_start(agent.handle(Ready(1, 1, 2))).key == "alice/good"
    assert kinds(agent.prompt("new")) == ["accepted"]
    assert the_start(agent.finishes("alice/good")).key == "alice/bad"
    assert error(agent.handle(WorkerLost()))["code"] == "worker_crashed"
    assert states(agent)["bad"] == State.FAILED
    assert the_start(agent.handle(Ready(1, 1, 2))).key == "alice/new"


def test_a_cancelled_prompt_is_not_run_again_when_its_worker_dies() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.cancel("p1")
    (final,) = replies(agent.handle(WorkerLost()))
    assert dict(final.user)["ek-status"] == "499"


# --- nobody listens ---------------------------------------------------------------------------
def test_a_prompt_whose_accepted_nobody_got_is_dropped_and_may_come_again() -> None:
    agent = Agent().ready()
    taken = agent.prompt("p1")
    agent.prompt("p2")
    dropped = agent.acknowledged(taken, code=0x10)
    assert to_worker(dropped) == [Cancel("alice/p1")]  # its slot is free once it says so
    assert the_start(agent.handle(done("alice/p1", "cancelled"))).key == "alice/p2"
    agent.handle(Tick())
    assert set(agent.disk) == {"alice/p2"}
    assert kinds(agent.prompt("p1")) == ["accepted"]


def test_an_old_address_where_nobody_listens_does_not_matter_once_there_is_a_new_one() -> None:
    agent = Agent().ready()
    taken = agent.prompt("p1")
    agent.prompt("p1", correlation=b"new")
    assert to_worker(agent.acknowledged(taken, code=0x10)) == []
    assert kinds(agent.finishes()) == ["final"]


# --- no storage -------------------------------------------------------------------------------
def test_a_full_disk_refuses_new_prompts_says_so_and_recovers() -> None:
    agent = Agent().ready()
    agent.prompt("old")
    agent.disk_full = True
    assert error(agent.prompt("p1"))["code"] == "no_storage"
    assert [s["state"] for s in statuses(agent.handle(Connected()))] == ["read_only"]
    assert error(agent.prompt("p2"))["code"] == "no_storage"
    assert CheckStorage() in agent.handle(Tick(), after=STORAGE_CHECK_SECONDS)
    agent.disk_full = False
    agent.handle(StorageBack())
    assert kinds(agent.prompt("p1")) == ["accepted"]
    assert "alice/p2" not in agent.disk


def test_a_prompt_that_was_started_while_its_commit_failed_is_cancelled() -> None:
    agent = Agent().ready()
    agent.disk_full = True
    effects = agent.prompt("p1")
    assert [type(m) for m in to_worker(effects)] == [Start, Cancel]
    assert kinds(effects) == ["error"]
    agent.disk_full = False
    agent.handle(StorageBack())
    assert kinds(agent.prompt("p1")) == ["accepted"]
    assert to_worker(agent.handle(Tick())) == []  # the worker is at the old one still
    assert the_start(agent.handle(done("alice/p1", "cancelled"))).key == "alice/p1"


def test_a_final_that_cannot_be_stored_is_kept_and_sent_when_it_is() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.disk_full = True
    assert replies(agent.finishes()) == []
    assert replies(agent.query("p1")) == []
    assert agent.disk["alice/p1"].outcome is None
    agent.disk_full = False
    back = agent.handle(StorageBack())
    assert kinds(back) == ["final"]
    assert agent.disk["alice/p1"].outcome is not None
    assert back.index(next(e for e in back if isinstance(e, Record))) < back.index(
        next(e for e in back if isinstance(e, Publish))
    )


def test_a_prompt_that_expires_as_its_commit_fails_is_told_of_once_that_is_stored() -> None:
    agent = Agent().ready()
    agent.prompt("p1", expiry_seconds=1)
    agent.disk_full = True
    assert replies(agent.handle(Tick(), after=70.0)) == []  # its worker hangs: it is put back
    agent.disk_full = False
    assert error(agent.handle(StorageBack()))["code"] == "deadline_exceeded"
    assert agent.disk["alice/p1"].outcome is not None


def test_a_commit_that_failed_may_be_on_the_disk_all_the_same_and_is_undone() -> None:
    agent = Agent().ready()
    agent.disk_full = True
    agent.prompt("p1")
    agent.disk_full = False
    assert Forget("alice/p1") in agent.handle(StorageBack())


# --- bounds -----------------------------------------------------------------------------------
def test_the_journal_is_bounded_in_rows_by_dropping_the_oldest_delivered_outcomes() -> None:
    agent = Agent().ready()
    for number in range(MAX_ROWS + 5):
        agent.prompt(f"p{number}", who=f"r{number % 5}")
        agent.acknowledged(agent.finishes(f"r{number % 5}/p{number}"))
    agent.handle(Tick())
    assert len(agent.disk) == MAX_ROWS
    assert "r4/p4" not in agent.disk
    assert "r0/p5" in agent.disk


def test_undelivered_outcomes_are_not_dropped_for_new_prompts() -> None:
    agent = Agent().ready()
    text = "x" * 100_000
    for number in range(MAX_BYTES // len(text) + 1):
        undelivered(agent, f"r{number % 5}", f"p{number}", text)
    assert error(agent.prompt("more", who="bob"))["code"] == "no_storage"
    agent.acknowledged(agent.handle(Connected()))
    assert kinds(agent.prompt("more", who="bob")) == ["accepted"]


def undelivered(agent: Agent, who: str, prompt_id: str, text: str) -> None:
    """A prompt whose answer, this text, no broker has taken."""
    assert kinds(agent.prompt(prompt_id, who=who)) == ["accepted"]
    agent.handle(Disconnected())
    ended = done(f"{who}/{prompt_id}")
    agent.handle(type(ended)(ended.key, text, "stop", ended.usage, ended.timings))


@pytest.mark.parametrize("text", ["", "x" * 100_000], ids=["rows", "bytes"])
def test_one_requester_s_undelivered_answers_leave_room_for_the_others(text: str) -> None:
    agent = Agent().ready()
    held = min(MAX_ROWS, MAX_BYTES // max(len(text), 1)) // REQUESTER_SHARE + bool(text)
    for number in range(held):
        undelivered(agent, "alice", f"p{number}", text)
    refused = error(agent.prompt("more"))
    assert (refused["code"], refused["retryable"]) == ("queue_full", True)
    assert refused["retry_after_ms"] > 0
    assert kinds(agent.prompt("p1", who="bob")) == ["accepted"]
    agent.handle(done("bob/p1"))
    agent.acknowledged(agent.handle(Connected()))
    assert kinds(agent.prompt("more")) == ["accepted"]


def test_one_requester_s_prompts_displace_its_own_stored_answers_and_nobody_else_s() -> None:
    agent = Agent().ready()
    agent.prompt("p1", who="bob")
    agent.acknowledged(agent.finishes("bob/p1"))
    for number in range(2 * MAX_ROWS):
        agent.prompt(f"p{number}")
        agent.acknowledged(agent.finishes(f"alice/p{number}"))
    agent.handle(Tick())
    assert len(agent.disk) == MAX_ROWS // REQUESTER_SHARE + 1
    assert kinds(agent.prompt("p1", who="bob")) == ["final"]


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
