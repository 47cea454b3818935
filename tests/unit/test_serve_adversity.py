"""The session when the worker dies, nobody listens, the disk is full or the journal is."""

from __future__ import annotations

import json

import pytest

from edgekit.agent.serve.pipe import Cancel, Generated, Ready, Start
from edgekit.agent.serve.session.events import (
    CheckStorage,
    Connected,
    Disconnected,
    Forget,
    Publish,
    Record,
    StorageBack,
    Tick,
    WorkerLost,
)
from edgekit.agent.serve.session.ledger import (
    MAX_BYTES,
    MAX_ROWS,
    REQUESTER_SHARE,
)
from edgekit.agent.serve.session.session import STORAGE_CHECK_SECONDS
from edgekit.agent.serve.session.states import State
from tests.harness.session import (
    Agent,
    done,
    error,
    kinds,
    replies,
    states,
    statuses,
    the_start,
    to_worker,
)


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
