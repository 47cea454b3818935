"""The session machine: events in, effects out, on a clock that only the test moves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.agent.serve.pipe import Generated, Ready, Refused, Start
from edgekit.agent.serve.session.dispatch import REPLY_MARGIN_SECONDS
from edgekit.core.protocol import wire
from tests.harness.session import (
    BODY,
    Agent,
    done,
    error,
    kinds,
    replies,
    to_worker,
)


# --- the ordinary road ------------------------------------------------------------------------
def test_a_prompt_is_accepted_streamed_and_answered_in_that_order() -> None:
    agent = Agent().ready()
    taken = agent.prompt()
    assert kinds(taken) == ["accepted"]
    (start,) = to_worker(taken)
    assert isinstance(start, Start)
    assert (start.key, start.messages) == ("alice/p1", [("user", "Hi")])
    assert start.answer_limit == 100
    deltas = [
        *agent.handle(Generated("alice/p1", "Hel")),
        *agent.handle(Generated("alice/p1", "lo.")),
    ]
    assert kinds(deltas) == ["delta", "delta"]
    payloads = [json.loads(m.payload) for m in replies(deltas)]
    assert [p["seq"] for p in payloads] == [0, 1]
    assert payloads[0]["choices"] == [{"index": 0, "delta": {"content": "Hel"}}]
    final = agent.finishes()
    assert kinds(final) == ["final"]
    body = json.loads(replies(final)[0].payload)
    assert body["id"] == "chatcmpl-p1"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello."}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["deltas"], body["usage"]["total_tokens"]) == (2, 7)
    assert body["created"] == 1e9 + 1000


def test_every_reply_carries_its_properties_and_the_time_that_is_left() -> None:
    agent = Agent().ready()
    accepted = replies(agent.prompt(correlation=b"\x00\xff"))[0]
    delta = replies(agent.handle(Generated("alice/p1", "Hel"), after=10.5))[0]
    final = replies(agent.handle(done("alice/p1"), after=10))[0]
    for message, kind, seq, qos, expiry in (
        (accepted, "accepted", "0", 1, 60),
        (delta, "delta", "0", 0, 49),
        (final, "final", "1", 1, 39),
    ):
        user = dict(message.user)
        assert message.topic == "edgekit/v1/res/alice/s/1"
        assert message.correlation == b"\x00\xff"
        assert (message.qos, message.retain, message.expiry_seconds) == (qos, False, expiry)
        assert (user["ek-kind"], user["ek-seq"]) == (kind, seq)
        assert (user["ek-id"], user["ek-dev"]) == ("p1", "pi")
        assert ("ek-status" in user) == (kind == "final")
    assert dict(final.user)["ek-status"] == "200"


def test_want_final_gives_exactly_one_message() -> None:
    agent = Agent().ready()
    effects = [*agent.prompt(want="final"), *agent.handle(Generated("alice/p1", "Hel"))]
    assert kinds([*effects, *agent.finishes()]) == ["final"]
    assert kinds(agent.prompt("p2", want="final", payload=b"{")) == ["error"]


def test_stream_false_gives_no_deltas() -> None:
    agent = Agent().ready()
    effects = [
        *agent.prompt(body=BODY | {"stream": False}),
        *agent.handle(Generated("alice/p1", "H")),
    ]
    final = agent.finishes()
    assert kinds([*effects, *final]) == ["accepted", "final"]
    assert json.loads(replies(final)[0].payload)["deltas"] == 0


def test_without_ek_id_the_id_is_the_correlation_data() -> None:
    agent = Agent().ready()
    effects = agent.prompt("")
    assert dict(replies(effects)[0].user)["ek-id"] == "0102"
    (start,) = to_worker(effects)
    assert isinstance(start, Start)
    assert start.key == "alice/0102"
    assert error(Agent().prompt("", correlation=b""))["code"] == "invalid_request"
    assert error(Agent().prompt("", correlation=b"x" * 65))["code"] == "invalid_request"


def test_prompts_run_one_at_a_time_in_the_order_they_came() -> None:
    agent = Agent().ready()
    first = agent.prompt("p1")
    second = agent.prompt("p2", who="bob")
    third = agent.prompt("p3")
    positions = [json.loads(replies(e)[0].payload)["position"] for e in (first, second, third)]
    assert positions == [0, 1, 2]
    assert (to_worker(second), to_worker(third)) == ([], [])
    (start,) = to_worker(agent.finishes("alice/p1"))
    assert isinstance(start, Start)
    assert start.key == "bob/p2"


def test_a_prompt_before_the_model_is_loaded_waits_for_it() -> None:
    agent = Agent()
    assert to_worker(agent.prompt()) == []
    assert len(to_worker(agent.handle(Ready(1.0, 1.0)))) == 1


def test_the_queue_time_is_reported() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    agent.handle(done("alice/p1"), after=2.0)
    final = replies(agent.finishes("alice/p2"))[0]
    assert json.loads(final.payload)["timings"]["queue_ms"] == 2000.0


def test_the_device_caps_the_answer_and_the_request_chooses_below() -> None:
    for wanted, given in ((None, 100), (7, 7), (1000, 100)):
        agent = Agent().ready()
        (start,) = to_worker(agent.prompt(body=BODY | {"max_tokens": wanted}))
        assert isinstance(start, Start)
        assert start.answer_limit == given


def test_the_bundles_sampling_defaults_hold_where_the_request_says_nothing() -> None:
    agent = Agent(search={"temperature": 0.6, "top_k": 5}).ready()
    (start,) = to_worker(agent.prompt(body=BODY | {"temperature": 0, "seed": 3}))
    assert isinstance(start, Start)
    sampling = start.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0, 5, 3)


# --- refusals ---------------------------------------------------------------------------------
def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    agent = Agent().ready()
    for number in range(3):
        assert kinds(agent.prompt(f"p{number}")) == ["accepted"]
    refused = error(agent.prompt("p3"))
    assert (refused["code"], refused["retry_after_ms"]) == ("queue_full", 2000)
    agent.finishes("alice/p0")
    assert kinds(agent.prompt("p3")) == ["accepted"]


def test_prompts_that_have_expired_do_not_fill_the_queue() -> None:
    agent = Agent(queue_limit=1).ready()
    agent.prompt("p1", expiry_seconds=3600)
    agent.prompt("p2", expiry_seconds=5)
    agent.now += 6
    assert kinds(agent.prompt("p3")) == ["accepted"]


def test_a_queue_limit_of_zero_lets_one_prompt_run() -> None:
    agent = Agent(queue_limit=0).ready()
    assert kinds(agent.prompt("p1")) == ["accepted"]
    assert error(agent.prompt("p2"))["code"] == "queue_full"


def test_the_same_ek_id_attaches_to_the_prompt_that_is_there() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.handle(Generated("alice/p1", "Hel"))
    again = agent.prompt("p1", correlation=b"new", response_topic="edgekit/v1/res/alice/other")
    assert kinds(again) == ["accepted"]
    assert to_worker(again) == []
    final = agent.finishes()
    assert kinds(final) == ["final"]
    assert replies(final)[0].correlation == b"new"
    assert replies(final)[0].topic == "edgekit/v1/res/alice/other"


def test_the_same_ek_id_with_another_body_is_a_conflict() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    assert error(agent.prompt("p1", body=BODY | {"seed": 1}))["code"] == "id_conflict"
    assert kinds(agent.finishes()) == ["final"]


def test_the_same_ek_id_of_another_requester_is_another_prompt() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    assert kinds(agent.prompt("p1", who="bob", body=BODY | {"seed": 1})) == ["accepted"]


@pytest.mark.parametrize(
    "changes",
    [
        {"response_topic": "edgekit/v1/res/bob/s/1"},
        {"response_topic": "edgekit/v1/res/alicex/s"},
        {"response_topic": "edgekit/v1/res/alice/"},
        {"response_topic": "edgekit/v1/res/alice"},
        {"response_topic": "edgekit/v1/res/alice/#"},
        {"response_topic": "edgekit/v1/res/alice/+/x"},
        {"response_topic": "edgekit/v1/res/alice/\0"},
        {"response_topic": "edgekit/v1/dev/pi/status"},
        {"response_topic": ""},
        {"response_topic": "edgekit/v1/res/alice/" + "x" * 492},
        {"retain": True},
        {"topic": "edgekit/v1/req/dev/pi/al ice", "response_topic": "edgekit/v1/res/al ice/s"},
        {"topic": "edgekit/v1/req/dev/pi/", "response_topic": "edgekit/v1/res//s"},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_a_prompt_that_may_not_be_answered_gets_no_answer(changes: dict[str, Any]) -> None:
    agent = Agent().ready()
    effects = agent.prompt(**changes)
    assert (replies(effects), to_worker(effects)) == ([], [])
    assert agent.ignored == 1


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"expiry_seconds": None}, "invalid_request", None),
        ({"expiry_seconds": 0}, "invalid_request", None),
        ({"payload": b"{"}, "invalid_request", None),
        ({"payload": b"\xff\xfe"}, "invalid_request", None),
        ({"payload": b""}, "invalid_request", None),
        ({"body": BODY | {"n": 2}}, "unsupported_parameter", "n"),
        (
            {"body": {"messages": [{"role": "user", "content": "Hi", "nick": "Al"}]}},
            "unsupported_parameter",
            "messages[0].nick",
        ),
        ({"body": {"messages": []}}, "invalid_request", "messages"),
        ({"body": BODY | {"temperature": 3}}, "invalid_request", "temperature"),
        ({"body": BODY | {"stop": ["a"] * 5}}, "invalid_request", "stop"),
        (
            {"body": {"messages": [{"role": "user", "content": "a\0b"}]}},
            "invalid_request",
            "messages[0].content",
        ),
        ({"body": BODY | {"model": "gpt-4"}}, "model_not_found", "model"),
        ({"payload": b"x" * (128 * 1024 + 1)}, "payload_too_large", None),
        ({"content_type": "text/plain"}, "unsupported_media_type", None),
        ({"prompt_id": "i" * 129}, "invalid_request", None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_prompt_is_refused_by_name_and_never_starts(
    changes: dict[str, Any], code: str, param: str | None
) -> None:
    agent = Agent().ready()
    values = {"correlation": b"c"} | changes
    effects = agent.prompt(values.pop("prompt_id", "p1"), **values)
    refused = error(effects)
    assert (refused["code"], refused["param"]) == (code, param)
    assert to_worker(effects) == []


def test_a_body_of_exactly_128_kib_is_taken() -> None:
    payload = json.dumps(BODY).encode()
    payload += b" " * (wire.MAX_BODY_BYTES - len(payload))
    assert kinds(Agent().ready().prompt(payload=payload)) == ["accepted"]


def test_an_expiry_of_more_than_an_hour_is_an_hour() -> None:
    agent = Agent().ready()
    (start,) = to_worker(agent.prompt(expiry_seconds=10**6))
    assert isinstance(start, Start)
    assert start.deadline == agent.now + 3600 - REPLY_MARGIN_SECONDS


def test_a_failure_in_the_worker_is_the_prompts_error() -> None:
    agent = Agent().ready()
    agent.prompt()
    failed = Refused("alice/p1", "context_length_exceeded", "2000 tokens", "messages")
    said = error(agent.handle(failed))
    assert (said["message"], said["param"]) == ("2000 tokens", "messages")
    assert replies(agent.finishes()) == []


def test_what_the_worker_says_of_another_prompt_is_not_the_running_ones_answer() -> None:
    agent = Agent().ready()
    agent.prompt("p1")
    agent.prompt("p2")
    for late in (Generated("alice/p0", "x"), done("alice/p0"), done("alice/p2")):
        assert (replies(effects := agent.handle(late)), to_worker(effects)) == ([], [])
    assert dict(replies(agent.finishes("alice/p1"))[0].user)["ek-id"] == "p1"
