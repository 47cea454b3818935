"""The session: cancel, deadlines, the worker's deaths, drain, card and status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.agent.serve.pipe import Cancel, Generated, Ready, Start
from edgekit.agent.serve.session.dispatch import HUNG_SECONDS, REPLY_MARGIN_SECONDS
from edgekit.agent.serve.session.events import (
    Connected,
    Drain,
    Exit,
    LeavePools,
    Publish,
    Spawn,
    Tick,
    WorkerLost,
)
from tests.harness.session import (
    CARD,
    STATUS,
    Agent,
    done,
    error,
    kinds,
    replies,
    statuses,
    to_worker,
)


# --- what cannot be started ---------------------------------------------------------------------
def test_a_prompt_that_cannot_be_made_ready_ends_with_an_error_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent().ready()
    with monkeypatch.context() as patched:

        def broken(*_: object) -> None:
            raise TypeError("a defect")

        patched.setattr("edgekit.agent.serve.session.dispatch.told", broken)
        effects = agent.prompt("p1")
    assert kinds(effects) == ["accepted", "error"]
    assert to_worker(effects) == []
    assert [json.loads(m.payload)["error"]["code"] for m in replies(effects)[1:]] == ["internal"]
    (start,) = to_worker(agent.prompt("p2"))
    assert isinstance(start, Start)
    assert kinds(agent.finishes("alice/p2")) == ["final"]


# --- cancel -----------------------------------------------------------------------------------
def test_a_cancel_of_a_waiting_prompt_answers_at_once() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    cancelled = agent.cancel("p2")
    (final,) = replies(cancelled)
    assert dict(final.user)["ek-status"] == "499"
    assert json.loads(final.payload)["choices"][0]["finish_reason"] == "cancelled"
    assert to_worker(cancelled) == []
    assert to_worker(agent.finishes("alice/p1")) == []


def test_a_cancel_of_the_running_prompt_goes_to_the_worker_and_keeps_what_there_is() -> None:
    agent = Agent().ready()
    agent.prompt()
    cancelled = agent.cancel("p1")
    assert to_worker(cancelled) == [Cancel("alice/p1")]
    assert replies(cancelled) == []
    (final,) = replies(agent.finishes(reason="cancelled"))
    assert dict(final.user)["ek-status"] == "499"
    assert json.loads(final.payload)["choices"][0]["message"]["content"] == "Hello."


def test_a_cancel_from_another_requester_does_nothing() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    for prompt_id in ("p1", "p2", "alice/p1"):
        effects = agent.cancel(prompt_id, who="bob")
        assert (replies(effects), to_worker(effects)) == ([], [])
    assert kinds(agent.finishes("alice/p1")) == ["final"]


@pytest.mark.parametrize(
    "changes",
    [{"payload": b"{"}, {"payload": b'{"kind":"stop","id":"p1"}'}, {"retain": True}],
    ids=repr,
)
def test_what_is_no_cancel_is_ignored(changes: dict[str, Any]) -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    effects = agent.cancel("p1", **changes)
    assert (replies(effects), to_worker(effects)) == ([], [])
    assert agent.ignored == 1


# --- deadlines --------------------------------------------------------------------------------
def test_a_prompt_that_expires_in_the_queue_gets_no_answer() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2", expiry_seconds=5)
    assert replies(agent.handle(Tick(), after=5.0)) == []
    assert to_worker(agent.finishes("alice/p1")) == []
    assert agent.ignored == 1


def test_a_running_prompt_past_its_deadline_is_answered_408_in_time() -> None:
    agent = Agent().ready()
    (start,) = to_worker(agent.prompt(expiry_seconds=5))
    assert isinstance(start, Start)
    assert start.deadline == agent.now + 5 - REPLY_MARGIN_SECONDS
    ended = agent.handle(done("alice/p1", "deadline"), after=4.75)
    assert error(ended)["code"] == "deadline_exceeded"
    assert replies(ended)[0].expiry_seconds == 1  # 0 would mean: none


# --- the worker's deaths ----------------------------------------------------------------------
def test_a_worker_that_dies_once_is_replaced_and_the_prompt_runs_again_without_deltas() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(Generated("alice/p1", "Hel"))
    lost = agent.handle(WorkerLost())
    assert [e for e in lost if isinstance(e, Spawn)]
    assert (replies(lost), to_worker(lost)) == ([], [])
    (start,) = to_worker(agent.handle(Ready(1.0, 1.0)))
    assert isinstance(start, Start)
    assert start.key == "alice/p1"  # it keeps its place
    assert replies(agent.handle(Generated("alice/p1", "Hello"))) == []
    final = agent.finishes()
    assert kinds(final) == ["final"]
    assert json.loads(replies(final)[0].payload)["deltas"] == 1


def test_a_prompt_that_had_no_delta_yet_streams_when_it_runs_again() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(WorkerLost())
    agent.handle(Ready(1.0, 1.0))
    assert kinds(agent.handle(Generated("alice/p1", "Hel"))) == ["delta"]


def test_two_deaths_on_one_prompt_end_it_and_the_next_one_runs() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(WorkerLost())
    agent.handle(Ready(1.0, 1.0))
    second = agent.handle(WorkerLost())
    assert error(second)["code"] == "worker_crashed"
    assert [e for e in second if isinstance(e, Spawn)]
    (start,) = to_worker(agent.handle(Ready(1.0, 1.0)))
    assert isinstance(start, Start)
    assert start.key == "alice/p2"


def test_a_death_with_nothing_running_only_starts_a_new_worker() -> None:
    agent = Agent().ready()
    lost = agent.handle(WorkerLost())
    assert len([e for e in lost if isinstance(e, Spawn)]) == 1
    assert replies(lost) == []
    assert to_worker(agent.prompt()) == []  # until it is ready
    assert len(to_worker(agent.handle(Ready(1.0, 1.0)))) == 1


def test_a_worker_that_hangs_past_the_deadline_is_replaced() -> None:
    agent = Agent().ready()
    agent.prompt("p1", expiry_seconds=5)
    assert not [e for e in agent.handle(Tick(), after=5 + HUNG_SECONDS - 1) if e == Spawn(1.0)]
    assert [e for e in agent.handle(Tick(), after=1) if e == Spawn(1.0)]
    assert error(agent.handle(Tick()))["code"] == "deadline_exceeded"
    assert kinds(agent.prompt("p2")) == ["accepted"]
    (start,) = to_worker(agent.handle(Ready(1.0, 1.0)))
    assert isinstance(start, Start)
    assert start.key == "alice/p2"


# --- drain ------------------------------------------------------------------------------------
def test_a_drain_with_nothing_to_do_says_so_and_ends() -> None:
    agent = Agent().ready()
    drained = agent.handle(Drain(agent.now + 30))
    assert drained[-1] == Exit()
    assert LeavePools() in drained
    assert [s["state"] for s in statuses(drained)] == ["draining", "offline"]


def test_a_drain_hands_back_the_waiting_and_finishes_the_running_prompt() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    drained = agent.handle(Drain(agent.now + 30))
    assert error(drained)["code"] == "draining"
    assert dict(replies(drained)[0].user)["ek-id"] == "p2"
    assert Exit() not in drained
    assert error(agent.prompt("p3"))["code"] == "draining"
    assert kinds(agent.prompt("p1")) == ["accepted"]  # a retry of what runs still attaches
    assert kinds(agent.handle(Generated("alice/p1", "Hel"))) == ["delta"]
    final = agent.finishes("alice/p1")
    assert kinds(final) == ["final"]
    assert final[-1] == Exit()
    assert statuses(final)[-1]["state"] == "offline"


def test_a_drain_ends_at_its_deadline_whatever_runs() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(Drain(agent.now + 5))
    assert Exit() not in agent.handle(Tick(), after=4.9)
    ended = agent.handle(Tick(), after=0.1)
    assert error(ended)["code"] == "draining"
    assert ended[-1] == Exit()
    assert statuses(ended)[-1]["state"] == "offline"
    assert "active" not in statuses(ended)[-1]
    late = agent.finishes("alice/p1")
    assert (replies(late), Exit() in late) == ([], False)


def test_a_worker_that_dies_while_draining_does_not_hold_the_exit_up() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(Drain(agent.now + 30))
    lost = agent.handle(WorkerLost())
    assert error(lost)["code"] == "draining"
    assert lost[-1] == Exit()


def test_a_successor_gets_the_prompts_that_wait_come_and_run_too_long() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    handed = agent.handle(Drain(agent.now + 5, successor=True))
    assert (replies(handed), Exit() in handed) == ([], False)
    assert kinds(agent.prompt("p3")) == ["accepted"]
    assert to_worker(agent.handle(Tick(), after=1)) == []
    assert kinds(agent.handle(Generated("alice/p1", "Hel"))) == ["delta"]
    ended = agent.handle(Tick(), after=4)
    assert (replies(ended), ended[-1]) == ([], Exit())
    assert statuses(ended)[-1]["state"] == "starting"
    assert {row.state for row in agent.disk.values()} == {"accepted"}
    successor = agent.restarted().ready()
    for name in ("p1", "p2", "p3"):
        assert kinds(successor.finishes(f"alice/{name}")) == ["final"]


def test_a_prompt_that_ends_in_time_is_answered_before_a_successor_comes() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(Drain(agent.now + 5, successor=True))
    final = agent.finishes("alice/p1")
    assert (kinds(final), final[-1]) == (["final"], Exit())
    assert to_worker(final) == []


def test_a_stop_during_a_hand_over_hands_back_what_waits() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(Drain(agent.now + 5, successor=True))
    stopped = agent.handle(Drain(agent.now + 5))
    assert error(stopped)["code"] == "draining"
    assert error(agent.prompt("p3"))["code"] == "draining"


def test_no_number_of_hand_overs_is_a_death_of_the_agent() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    for _ in range(9):
        handed = agent.handle(Drain(agent.now, successor=True))
        assert (replies(handed), handed[-1]) == ([], Exit())
        agent = agent.restarted().ready()
    assert kinds(agent.finishes("alice/p1")) == ["final"]


# --- what the device says of itself -----------------------------------------------------------
def test_the_card_says_what_the_memory_decided_also_after_a_crash() -> None:
    agent = Agent().ready()
    agent.handle(WorkerLost())
    back = agent.handle(Ready(1.0, 1.0, max_beams=3))
    cards = [e.message for e in back if isinstance(e, Publish) and e.message.topic == CARD]
    assert [json.loads(card.payload)["max_beams"] for card in cards] == [3]


def test_the_context_that_is_served_is_the_cards_and_caps_answers() -> None:
    agent = Agent(limits={"max_answer_tokens": 80})
    cards = []
    for served, after in ((0, Ready(1.0, 1.0)), (512, None), (64, None), (1024, None)):
        agent.handle(after or Ready(1.0, 1.0, context_length=served))
        said = agent.handle(Connected())
        cards += [e.message for e in said if isinstance(e, Publish) and e.message.topic == CARD]
    shown = [json.loads(card.payload) for card in cards]
    assert [card["context_length"] for card in shown] == [1024, 512, 64, 1024]
    assert [card["max_answer_tokens"] for card in shown] == [80, 80, 64, 80]
    agent.handle(Ready(1.0, 1.0, context_length=64))
    (start,) = to_worker(agent.prompt())
    assert isinstance(start, Start)
    assert start.answer_limit == 64
    # the one after a crash finds more memory
    agent.handle(WorkerLost())
    back = agent.handle(Ready(1.0, 1.0, context_length=1024))
    assert [e for e in back if isinstance(e, Publish) and e.message.topic == CARD]


def test_card_and_status_are_retained_and_said_again_at_every_connection() -> None:
    agent = Agent().ready()
    for _ in range(2):
        messages = [e.message for e in agent.handle(Connected()) if isinstance(e, Publish)]
        assert [(m.topic, m.retain, m.qos) for m in messages] == [
            (CARD, True, 1),
            (STATUS, True, 1),
        ]
        card = json.loads(messages[0].payload)
        assert (card["device"], card["model"], card["queue_limit"]) == ("pi", "smollm2", 2)
        assert json.loads(messages[1].payload)["state"] == "ready"


def test_changes_of_status_are_said_at_most_once_a_second() -> None:
    agent = Agent().ready()
    said = [*agent.prompt("p1"), *agent.finishes(), *agent.prompt("p2")]
    assert statuses(said) == []
    assert statuses(agent.handle(Tick(), after=0.9)) == []
    (status,) = statuses(agent.handle(Tick(), after=0.1))
    assert (status["state"], status["active"], status["tok_s"]) == ("busy", 1, 42.0)
    assert statuses(agent.handle(Tick(), after=5)) == []  # nothing changed


def test_the_status_is_said_again_every_thirty_seconds() -> None:
    agent = Agent().ready()
    said = [statuses(agent.handle(Tick(), after=0.5)) for _ in range(140)]
    assert [number for number, found in enumerate(said) if found] == [59, 119]


def test_a_prompt_cancelled_before_its_first_token_leaves_the_measured_speed() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.finishes("alice/p1")
    agent.prompt("p2")
    agent.handle(done("alice/p2", "cancelled", tokens=0))
    (status,) = statuses(agent.handle(Tick(), after=1))
    assert status["tok_s"] == 42.0
