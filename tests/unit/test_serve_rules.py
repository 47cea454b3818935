"""Rules in the session: which messages become prompts, what is published, what a kill leaves."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.serve.pipe import Ready, Refused, Start
from edgekit.agent.serve.session.events import (
    Connected,
    Disconnected,
    Drain,
    Effect,
    Received,
    Restored,
    StorageBack,
    Tick,
    Warn,
)
from edgekit.agent.serve.session.ledger import MAX_ROWS, REQUESTER_SHARE
from edgekit.agent.serve.session.rules.window import RuleWindow
from edgekit.core.chat.logprobs import TokenLogprob, TopLogprob
from edgekit.core.protocol import topics, wire
from edgekit.core.rules.message import MAX_FILL_BYTES, MAX_HOPS, MAX_MESSAGE_BYTES, Fill
from edgekit.core.rules.rule import Rule
from tests.harness.session import Agent, done, kinds, replies, the_start, to_worker

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def rule(**changes: Any) -> Rule:
    values: dict[str, Any] = {
        "topic_filter": "plant/+",
        "prompt": "{{ message.n }}",
        "per_minute": 6000.0,
    }
    return Rule(**(values | changes))


def device(slots: int = 1, queue_limit: int = 8, **changes: Any) -> Agent:
    return Agent(rules={"door": rule(**changes)}, queue_limit=queue_limit).ready(slots)


def turns(start: Start) -> list[tuple[str, Any]]:
    """The prompt's messages, of which none has more than a text."""
    return [turn for turn in start.messages if isinstance(turn, tuple)]


def fill_of(start: Start) -> Fill:
    return msgspec.msgpack.decode(start.fill, type=Fill)


def asked(effects: tuple[Effect, ...]) -> list[Any]:
    """The messages of the one prompt that starts."""
    return [json.loads(one.payload) for one in fill_of(the_start(effects)).messages]


def answers(effects: tuple[Effect, ...]) -> list[dict[str, Any]]:
    told = [m for m in replies(effects) if m.topic.startswith("edgekit/v1/rule/")]
    return [json.loads(message.payload) for message in told]


def ends(agent: Agent, start: Start) -> tuple[Effect, ...]:
    return agent.handle(done(start.key))


# --- a message becomes a sentence --------------------------------------------------------------
def test_a_message_becomes_a_prompt_of_the_rule_s_own_requester() -> None:
    agent = device(system="Be brief.", body={"max_tokens": 7})
    start = the_start(agent.hears({"n": 1}))
    assert start.requester == "rule:door"
    assert [role for role, _ in turns(start)] == ["system", "user"]
    assert (turns(start)[-1][1], start.answer_limit) == ("{{ message.n }}", 7)
    told = fill_of(start)
    assert (told.rule, told.device, told.messages[0].topic) == ("door", "pi", "plant/door")
    assert json.loads(told.messages[0].payload) == {"n": 1}


def test_the_answer_says_what_it_answers() -> None:
    agent = device()
    start = the_start(agent.hears({"n": 1}, user=(("traceparent", TRACE), ("ek-hop", "1"))))
    said = ends(agent, start)
    (message,) = replies(said)
    assert (message.topic, message.qos, message.retain) == ("edgekit/v1/rule/pi/door", 1, False)
    body = json.loads(message.payload)
    assert body == {
        "id": start.key.partition("/")[2],
        "rule": "door",
        "device": "pi",
        "topic": "plant/door",
        "messages": 1,
        "hops": 2,
        "created": body["created"],
        "model": "smollm2",
        "content": "Hello.",
        "finish_reason": "stop",
        "usage": body["usage"],
    }
    assert dict(message.user) == {
        "ek-id": body["id"],
        "ek-dev": "pi",
        "ek-rule": "door",
        "ek-hop": "2",
        "traceparent": TRACE,
    }


def test_a_message_without_a_trace_begins_one() -> None:
    agent = device()
    (message,) = replies(ends(agent, the_start(agent.hears({"n": 1}))))
    given = wire.Inbound("x", b"", user=message.user)
    assert wire.traceparent_of(given) == dict(message.user)["traceparent"]


def test_a_rule_publishes_where_it_is_told() -> None:
    agent = device(publish="said/door")
    (message,) = replies(ends(agent, the_start(agent.hears({"n": 1}))))
    assert message.topic == "said/door"


def test_no_delta_and_no_accepted_is_published() -> None:
    agent = device()
    assert replies(agent.hears({"n": 1})) == []


def test_two_rules_of_one_filter_both_answer() -> None:
    agent = Agent(rules={"a": rule(), "b": rule(prompt="b")}).ready(2)
    assert {s.requester for s in to_worker(agent.hears({"n": 1})) if isinstance(s, Start)} == {
        "rule:a",
        "rule:b",
    }


def test_answers_to_one_message_have_ids_of_their_own() -> None:
    """A reader takes an id once: the second rule's answer would be lost to it."""
    ids, spans = set(), set()
    for name in ("pi-1", "pi-2"):
        agent = Agent(device=name, rules={"a": rule(), "b": rule()}).ready(2)
        for start in to_worker(agent.hears({"n": 1})):
            assert isinstance(start, Start)
            (message,) = replies(ends(agent, start))
            ids.add(json.loads(message.payload)["id"])
            spans.add(dict(message.user)["traceparent"])
    assert len(ids) == 4
    assert len(spans) == 4


def test_an_answer_has_the_log_probabilities_that_its_rule_asks_for() -> None:
    agent = device(body={"logprobs": True, "top_logprobs": 1})
    start = the_start(agent.hears({"n": 1}))
    assert start.top_logprobs == 1
    one = TopLogprob("Hello.", -0.25, [72])
    entry = TokenLogprob("Hello.", -0.25, [72], [one])
    said = agent.handle(msgspec.structs.replace(done(start.key), logprobs=[entry]))
    (answer,) = answers(said)
    assert answer["logprobs"] == {"content": [msgspec.to_builtins(entry)], "refusal": None}


def test_a_message_that_no_rule_hears_is_acknowledged_and_nothing_else() -> None:
    agent = device()
    assert to_worker(agent.hears({"n": 1}, "elsewhere")) == []
    assert agent.disk == {}


def test_a_rule_and_a_requester_take_turns() -> None:
    agent = device()
    first = the_start(agent.hears({"n": 1}))
    for n in (2, 3):
        agent.now += 1
        agent.hears({"n": n})
    agent.prompt("p1", who="alice")
    order = []
    start = first
    for _ in range(3):
        start = the_start(ends(agent, start))
        order.append(start.requester)
    assert order == ["alice", "rule:door", "rule:door"]


def test_no_client_can_prompt_or_cancel_as_a_rule() -> None:
    agent = device()
    start = the_start(agent.hears({"n": 1}))
    identity = start.key.partition("/")[2]
    topic = topics.request_topic("pi", "rule:door")
    forged = wire.Inbound(
        topic, b"{}", response_topic="edgekit/v1/res/rule:door/x", correlation=b"1", token=0
    )
    assert replies(agent.handle(Received(forged))) == []
    agent.cancel(identity, who="rule:door")
    assert len(answers(ends(agent, start))) == 1


# --- what is not taken ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("payload", "more", "fate"),
    [
        ({"n": 1}, {"retain": True}, "retained"),
        (b"{" * 10, {}, "unreadable"),
        (b"\xff", {}, "unreadable"),
        (b"", {}, "unreadable"),
        (b'{"n": 1, "n": 2}', {}, "unreadable"),
        (b"[" * 5000, {}, "unreadable"),
        (b'"' + b"x" * MAX_MESSAGE_BYTES + b'"', {}, "too_large"),
        ({"n": 1}, {"user": (("ek-hop", str(MAX_HOPS)),)}, "looped"),
        ({"n": 1}, {"user": (("ek-hop", "-1"),)}, "looped"),
        ({"n": 1}, {"user": (("ek-hop", "9" * 5000),)}, "looped"),
    ],
)
def test_a_message_that_no_rule_takes_is_counted(
    payload: object, more: dict[str, Any], fate: str
) -> None:
    agent = device()
    assert to_worker(agent.hears(payload, **more)) == []
    assert agent.fates() == {fate: 1}
    assert agent.disk == {}


def test_the_same_message_at_qos_1_is_taken_once_within_its_time() -> None:
    agent = device(slots=4, repeat_seconds=60)
    assert to_worker(agent.hears({"n": 1}))
    agent.now += 59
    assert not to_worker(agent.hears({"n": 1}))
    assert to_worker(agent.hears({"n": 1}, "plant/window"))  # another topic
    agent.now += 2
    assert to_worker(agent.hears({"n": 1}))
    assert agent.fates() == {"taken": 3, "repeated": 1}


def test_a_flood_of_what_gave_way_does_not_make_a_rule_forget_what_it_answered() -> None:
    agent = device(slots=9, per_minute=1, repeat_seconds=60)
    ends(agent, the_start(agent.hears({"n": 0})))
    for n in range(1, 5000):
        agent.now += 0.009
        agent.hears({"n": n})
    agent.hears({"n": 0})
    assert agent.fates()["repeated"] == 1


def test_what_was_answered_is_known_for_as_long_as_the_rule_says_after_a_kill_too() -> None:
    agent = device(repeat_seconds=3600)
    agent.acknowledged(ends(agent, the_start(agent.hears({"n": 0}))))
    agent.handle(Tick(), after=1800)
    again = agent.restarted()
    again.handle(Ready(1.0, 1.0, 1))
    again.handle(Connected())
    assert to_worker(again.hears({"n": 0})) == []
    again.handle(Tick(), after=1801)
    assert to_worker(again.hears({"n": 0}))


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_new"])
def test_a_message_that_was_dropped_counts_when_it_is_published_again(when_full: str) -> None:
    agent = device(when_full=when_full)
    start = the_start(agent.hears({"n": 0}))
    for n in range(1, 6):  # four wait
        agent.now += 1
        agent.hears({"n": n})
    dropped = 1 if when_full == "drop_oldest" else 5
    start = the_start(ends(agent, start))
    agent.now += 1
    agent.hears({"n": dropped})
    assert "repeated" not in agent.fates()
    agent.hears({"n": 3})
    assert agent.fates()["repeated"] == 1  # that one waits
    ran = []
    while to_worker(effects := ends(agent, start)):
        start = the_start(effects)
        ran += asked(effects)
    assert ran[-1] == {"n": dropped}


def test_an_equal_later_message_stays_known_when_an_older_one_is_dropped() -> None:
    agent = device(repeat_seconds=2)
    the_start(agent.hears({"n": 0}))
    for n in (1, 2, 1, 3):  # the second 1 comes after its time, and waits, too
        agent.now += 1.5
        agent.hears({"n": n})
    agent.now += 0.1
    agent.hears({"n": 4})  # the first 1 gives way
    assert agent.fates()["dropped_oldest"] == 1
    agent.hears({"n": 1})
    assert agent.fates()["repeated"] == 1


def test_a_message_that_no_journal_took_counts_when_it_is_published_again() -> None:
    agent = device(slots=3)  # the worker still stops the first one
    agent.disk_full = True
    agent.hears({"n": 1})
    agent.now += 1
    agent.hears({"n": 2})
    agent.disk_full = False
    agent.handle(StorageBack())
    agent.now += 1
    started = []
    for n in (1, 2):
        effects = agent.hears({"n": n})
        started += asked(effects)
        ends(agent, the_start(effects))
        agent.now += 1
    assert started == [{"n": 1}, {"n": 2}]


def test_each_message_at_qos_0_counts() -> None:
    agent = device(slots=4)
    for _ in range(2):
        agent.now += 1
        assert to_worker(agent.hears({"n": 1}, qos=0))


def test_the_rate_is_even_and_never_above_its_limit() -> None:
    agent = device(slots=50, queue_limit=50, per_minute=6)
    started = []
    for n in range(960):  # 120 s, eight a second
        agent.now += 0.125
        if to_worker(effects := agent.hears({"n": n})):
            started.append(asked(effects)[0]["n"])
    assert started == [*range(0, 960, 80)]
    assert agent.fates() == {"taken": 960, "gave_way": 947}


def test_the_first_message_is_kept_where_new_ones_are_left_out() -> None:
    agent = device(slots=9, per_minute=6, when_full="drop_new")
    for n in range(3):
        agent.hears({"n": n})
    assert asked(agent.handle(Tick(), after=10)) == [{"n": 1}]
    assert agent.fates() == {"taken": 2, "left_out": 1}


# --- windows ----------------------------------------------------------------------------------
def test_a_window_s_messages_are_one_prompt() -> None:
    agent = device(window_seconds=5, window_messages=3)
    for n in range(4):
        assert to_worker(agent.hears({"n": n})) == []
        agent.now += 1
    assert to_worker(agent.handle(Tick())) == []
    agent.now += 1
    assert asked(agent.handle(Tick())) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert agent.fates() == {"taken": 4, "gave_way": 1}


def test_a_full_window_leaves_out_the_new_ones_if_it_is_told_to() -> None:
    agent = device(window_seconds=5, window_messages=2, when_full="drop_new")
    for n in range(4):
        agent.hears({"n": n})
    assert asked(agent.handle(Tick(), after=5)) == [{"n": 0}, {"n": 1}]
    assert agent.fates() == {"taken": 2, "left_out": 2}


def test_a_window_is_bounded_in_bytes() -> None:
    agent = device(window_seconds=5)
    for n in range(20):
        agent.hears({"n": n, "x": "x" * 8000})
    start = the_start(agent.handle(Tick(), after=5))
    assert MAX_FILL_BYTES - 10_000 < sum(m.size for m in fill_of(start).messages) <= MAX_FILL_BYTES
    assert len(start.fill) < wire.MAX_BODY_BYTES


def test_a_window_waits_for_the_rate() -> None:
    agent = device(slots=9, window_seconds=1, per_minute=6)
    agent.hears({"n": 0})
    assert asked(agent.handle(Tick(), after=1)) == [{"n": 0}]
    agent.hears({"n": 1})
    assert to_worker(agent.handle(Tick(), after=8)) == []
    assert asked(agent.handle(Tick(), after=2)) == [{"n": 1}]


# --- full, hot, late --------------------------------------------------------------------------
def test_when_full_the_oldest_waiting_message_gives_way() -> None:
    agent = device()
    first = the_start(agent.hears({"n": 0}))  # requester_limit lets four others wait
    for n in range(1, 8):
        agent.now += 1
        agent.hears({"n": n})
    assert agent.fates() == {"taken": 8, "dropped_oldest": 3}
    ran, start = [], first
    while to_worker(effects := ends(agent, start)):
        start = the_start(effects)
        ran += asked(effects)
    assert [each["n"] for each in ran] == [4, 5, 6, 7]
    assert len(agent.disk) == 5


def test_when_full_the_new_message_is_left_out_if_it_is_told_to() -> None:
    agent = device(when_full="drop_new")
    start = the_start(agent.hears({"n": 0}))
    for n in range(1, 8):
        agent.now += 1
        agent.hears({"n": n})
    assert agent.fates() == {"taken": 8, "queue_full": 3}
    assert asked(ends(agent, start)) == [{"n": 1}]


def test_a_full_device_does_not_lose_a_requester_s_prompt_to_a_rule() -> None:
    agent = device(queue_limit=2)
    agent.prompt("p0")
    for n in (1, 2):
        agent.prompt(f"p{n}")
    agent.hears({"n": 1})
    assert agent.fates() == {"taken": 1, "queue_full": 1}
    assert set(agent.disk) == {"alice/p0", "alice/p1", "alice/p2"}


def test_rules_leave_half_of_the_queue_to_clients_and_share_their_own() -> None:
    agent = Agent(rules={name: rule() for name in "abcdefgh"}, queue_limit=8).ready()
    agent.prompt("p0")
    for n in range(40):
        agent.now += 1
        agent.hears({"n": n})
    waiting = [row.requester for row in agent.disk.values() if row.state == "accepted"]
    assert len(waiting) == len(set(waiting)) == 4
    for n in range(1, 5):
        assert kinds(agent.prompt(f"p{n}")) == ["accepted"]


def test_a_rule_gets_a_place_of_one_that_has_several() -> None:
    rules = {"busy": rule(topic_filter="busy"), "rare": rule(topic_filter="rare")}
    agent = Agent(rules=rules, queue_limit=8).ready()
    agent.prompt("p0")
    for n in range(9):
        agent.now += 1
        agent.hears({"n": n}, "busy")
    agent.hears({"n": 0}, "rare")
    waiting = [row.requester for row in agent.disk.values() if row.state == "accepted"]
    assert sorted(waiting) == [*["rule:busy"] * 3, "rule:rare"]


def test_undelivered_answers_of_one_rule_push_out_no_prompt_of_another() -> None:
    rules = {"full": rule(topic_filter="full"), "other": rule(topic_filter="other")}
    agent = Agent(rules=rules, queue_limit=8).ready()
    agent.handle(Disconnected())
    for n in range(MAX_ROWS // REQUESTER_SHARE):
        agent.now += 1
        ends(agent, the_start(agent.hears({"n": n}, "full")))
    agent.prompt("p0")
    for n in range(3):
        agent.now += 1
        agent.hears({"n": n}, "other")
    agent.hears({"n": -1}, "full")
    assert agent.fates()["queue_full"] == 1
    waiting = [row.requester for row in agent.disk.values() if row.state == "accepted"]
    assert waiting == ["rule:other"] * 3


def test_a_late_answer_is_not_made() -> None:
    agent = device(deadline_seconds=10)
    first = the_start(agent.hears({"n": 0}))
    agent.now += 1
    agent.hears({"n": 1})
    assert first.deadline < agent.now + 10
    effects = agent.handle(Tick(), after=11)
    assert replies(effects) == []
    (line,) = [e.text for e in effects if isinstance(e, Warn)]
    assert "rule door has no answer to a message on plant/door" in line
    assert agent.fates() == {"taken": 2, "deadline_exceeded": 1}
    assert to_worker(ends(agent, first)) == []


def test_a_prompt_that_fails_is_said_in_the_log_and_not_on_the_topic() -> None:
    agent = device()
    said: list[str] = []
    for n in range(3):
        agent.now += 1
        start = the_start(agent.hears({"n": n}))
        effects = agent.handle(Refused(start.key, "invalid_request", "no field n", "prompt"))
        assert replies(effects) == []
        said += [e.text for e in effects if isinstance(e, Warn)]
    (line,) = said
    assert "rule door" in line
    assert "no field n" in line


def test_a_prompt_that_this_model_does_not_serve_is_said_in_the_log_once() -> None:
    agent = device(body={"chat_template_kwargs": {"enable_thinking": False}})
    said: list[str] = []
    for n in range(3):
        agent.now += 1
        said += [e.text for e in agent.hears({"n": n}) if isinstance(e, Warn)]
    (line,) = said
    assert "enable_thinking" in line
    assert agent.fates() == {"taken": 3, "unsupported_parameter": 3}


def test_a_journal_that_is_full_takes_no_message_and_publishes_nothing() -> None:
    agent = device(slots=2)  # the worker still stops the first one
    agent.disk_full = True
    assert replies(agent.hears({"n": 1})) == []
    agent.now += 1
    agent.hears({"n": 2})
    assert agent.fates()["no_storage"] == 1
    agent.disk_full = False
    agent.handle(StorageBack())
    agent.now += 1
    assert to_worker(agent.hears({"n": 3}))


# --- kills and stops --------------------------------------------------------------------------
def test_after_a_kill_the_journal_s_messages_are_answered_once() -> None:
    agent = device()
    agent.hears({"n": 0})
    agent.now += 1
    agent.hears({"n": 1})
    again = agent.restarted()
    again.handle(Ready(1.0, 1.0, 1))
    effects = again.handle(Connected())
    for n in (0, 1):  # the publisher sends them again: its PUBACKs were lost
        effects += again.hears({"n": n})
    assert again.fates() == {"repeated": 2}
    told = []
    start = next(row for row in again.disk.values() if row.state == "running")
    said = again.handle(done(start.key))
    told += answers(said)
    told += answers(ends(again, the_start(said)))
    assert len({each["id"] for each in told}) == len(told) == 2


def test_a_kill_does_not_begin_the_rate_anew() -> None:
    agent = device(slots=9, per_minute=6)
    ends(agent, the_start(agent.hears({"n": 0})))
    agent.now += 1
    again = agent.restarted()
    again.handle(Ready(1.0, 1.0, 9))
    again.handle(Connected())
    assert to_worker(again.hears({"n": 1})) == []
    assert asked(again.handle(Tick(), after=9)) == [{"n": 1}]


def test_after_a_kill_an_answer_that_the_broker_may_have_is_the_same_again() -> None:
    agent = device()
    first = ends(agent, the_start(agent.hears({"n": 0})))
    again = agent.restarted()
    again.handle(Ready(1.0, 1.0, 1))
    (repeated,) = replies(again.handle(Connected()))
    (message,) = replies(first)
    assert (repeated.topic, repeated.payload) == (message.topic, message.payload)
    assert not to_worker(again.hears({"n": 0}))


def test_an_answer_is_sent_until_the_broker_has_it_and_not_after() -> None:
    agent = device()
    start = the_start(agent.hears({"n": 0}))
    agent.handle(Disconnected())
    assert replies(ends(agent, start)) == []
    sent = agent.handle(Connected())
    assert len(answers(sent)) == 1
    agent.acknowledged(sent)
    agent.handle(Disconnected())
    assert answers(agent.handle(Connected())) == []


def test_a_rule_that_is_gone_leaves_nothing_behind() -> None:
    agent = device()
    agent.hears({"n": 0})
    agent.now += 1
    agent.hears({"n": 1})
    for rules in ({}, {"other": rule()}, {"door": rule(publish="elsewhere")}):
        bare = Agent(rules=rules, disk=dict(agent.disk), now=agent.now)
        bare.handle(Restored(tuple(bare.disk.values())))
        bare.handle(Ready(1.0, 1.0, 1))
        assert to_worker(bare.handle(Connected())) == []
        bare.handle(Tick())
        assert bare.disk == {}


def test_a_new_prompt_of_a_rule_is_for_the_messages_that_wait() -> None:
    agent = device()
    agent.hears({"n": 0})
    later = Agent(rules={"door": rule(prompt="new")}, disk=dict(agent.disk), now=agent.now)
    later.handle(Restored(tuple(later.disk.values())))
    start = the_start(later.handle(Ready(1.0, 1.0, 1)))
    assert turns(start)[-1][1] == "new"


def test_a_stop_takes_nothing_new_and_publishes_nothing_more() -> None:
    agent = device()
    start = the_start(agent.hears({"n": 0}))
    agent.now += 1
    agent.hears({"n": 1})
    effects = agent.handle(Drain(agent.now + 30))
    assert replies(effects) == []
    agent.now += 1
    agent.hears({"n": 2})
    assert agent.fates()["draining"] == 1
    assert len(answers(ends(agent, start))) == 1  # what ran is finished


def test_a_stop_without_a_successor_leaves_its_messages_in_the_journal() -> None:
    agent = device()
    the_start(agent.hears({"n": 0}))
    agent.now += 1
    agent.hears({"n": 1})
    agent.handle(Drain(agent.now + 1))
    agent.handle(Tick(), after=2)  # before what runs has ended
    again = agent.restarted()
    effects = again.handle(Ready(1.0, 1.0, 1)) + again.handle(Connected())
    told = []
    for _ in range(2):
        effects = ends(again, the_start(effects))
        told += answers(effects)
    assert len({each["id"] for each in told}) == len(told) == 2


def test_a_successor_gets_what_waits_and_the_open_window() -> None:
    agent = device(window_seconds=60)
    agent.hears({"n": 0})
    agent.handle(Drain(agent.now + 30, successor=True))
    again = agent.restarted()
    start = the_start(again.handle(Ready(1.0, 1.0, 1)))
    assert [json.loads(m.payload) for m in fill_of(start).messages] == [{"n": 0}]


def test_a_row_of_a_rule_is_dropped_by_an_agent_without_rules() -> None:
    """As agents before this version do: the topic is no Response Topic."""
    agent = device()
    agent.hears({"n": 0})
    (row,) = agent.disk.values()
    old = msgspec.structs.replace(row, origin=None)
    plain = Agent()
    plain.handle(Restored((old,)))
    assert to_worker(plain.handle(Ready(1.0, 1.0, 1))) == []


# --- any messages at any time -----------------------------------------------------------------
@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5), st.booleans()), max_size=60),
    st.sampled_from([0.0, 2.0, 20.0]),
    st.sampled_from([1.0, 10.0, 600.0]),
    st.sampled_from([0.0, 5.0, 60.0]),
    st.sampled_from(["drop_oldest", "drop_new"]),
)
def test_whatever_comes_the_limits_hold(
    heard: list[tuple[float, int, bool]],
    window_seconds: float,
    per_minute: float,
    repeat_seconds: float,
    when_full: Any,
) -> None:
    window = RuleWindow(
        rule(
            window_seconds=window_seconds,
            per_minute=per_minute,
            repeat_seconds=repeat_seconds,
            window_messages=4,
            when_full=when_full,
        )
    )
    now, prompts = 0.0, []
    waiting: list[tuple[int, float]] = []  # what QoS 1 brought, and when
    answered: list[tuple[int, float]] = []
    for after, n, sure in heard:
        now += after
        message = wire.Inbound("plant/x", b"%d" % n, qos=int(sure))
        fate, *others = window.hear(message, now)
        if fate == "taken":
            waiting = [*waiting[others.count("gave_way") :], (n if sure else -1, now)]
            if sure and repeat_seconds:
                earlier = [at for one, at in (*answered, *waiting[:-1]) if one == n]
                assert all(now - at >= repeat_seconds for at in earlier)
        else:
            assert not others
        if window.due(now):
            messages = window.take(now)
            assert len(messages) == len(waiting) <= 4
            answered, waiting = [*answered, *waiting], []
            prompts.append(now)
    for before, later in pairwise(prompts):
        assert later - before >= 60 / per_minute - 1e-6
