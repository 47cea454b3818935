"""A client without properties: its JSON envelope is taken as properties would be, or not at all."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import cbor2
import pytest

from edgekit.agent.serve.pipe import Cancel, Generated, Start
from edgekit.agent.serve.session.events import Controlled, Received
from edgekit.core.protocol import topics, wire
from edgekit.core.protocol.envelope import opened
from tests.harness.session import BODY, Agent, replies, to_worker

HERE = "edgekit/v1/res/alice/plain"


def envelope(**changes: Any) -> dict[str, Any]:
    """A good one; None takes a key out."""
    whole = {"v": 1, "id": "p1", "reply_to": HERE, "deadline_ms": 60_000, "body": BODY} | changes
    return {key: value for key, value in whole.items() if value is not None}


def said(agent: Agent, payload: object, **changes: Any) -> list[dict[str, Any]]:
    """Send it from a client of MQTT 3.1.1: what the requester reads."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    message = wire.Inbound(topics.request_topic("pi", "alice"), data, token=1)
    event = Received(wire.Inbound(**(fields(message) | changes)))
    return answers(agent.handle(event))


def controlled(agent: Agent, payload: object, **changes: Any) -> list[dict[str, Any]]:
    message = wire.Inbound(topics.control_topic("pi", "alice"), json.dumps(payload).encode(), qos=0)
    return answers(agent.handle(Controlled(wire.Inbound(**(fields(message) | changes)))))


def fields(message: wire.Inbound) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def answers(effects: Any) -> list[dict[str, Any]]:
    return [json.loads(m.payload) | {"topic": m.topic} for m in replies(effects)]


def error_of(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["kind"] == "error"
    assert answer["status"] == wire.CODES[answer["payload"]["error"]["code"]][0]
    error: dict[str, Any] = answer["payload"]["error"]
    return error


def test_what_properties_say_is_in_keys_of_every_reply() -> None:
    agent = Agent().ready()
    (accepted,) = said(agent, envelope())
    (delta,) = answers(agent.handle(Generated("alice/p1", "Hel")))
    (final,) = answers(agent.finishes())
    common = {"v": 1, "id": "p1", "dev": "pi", "topic": HERE}
    assert accepted == common | {"kind": "accepted", "seq": 0, "payload": {"position": 0}}
    payload = {"seq": 0, "choices": [{"index": 0, "delta": {"content": "Hel"}}]}
    assert delta == common | {"kind": "delta", "seq": 0, "payload": payload}
    body = final.pop("payload")
    assert final == common | {"kind": "final", "seq": 1, "status": 200}
    assert body["choices"][0]["message"]["content"] == "Hello."


def test_want_final_and_unknown_keys_are_as_with_properties() -> None:
    agent = Agent().ready()
    assert said(agent, envelope(want="final", later={"a": [1]})) == []
    assert [a["kind"] for a in answers(agent.finishes())] == ["final"]


def test_the_deadline_is_counted_in_milliseconds_from_the_arrival() -> None:
    agent = Agent().ready()
    agent.handle(
        Received(
            wire.Inbound(
                topics.request_topic("pi", "alice"),
                json.dumps(envelope(deadline_ms=1500)).encode(),
            )
        )
    )
    assert agent.disk["alice/p1"].deadline == agent.now + 1.5


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"deadline_ms": 3_600_001}, "deadline_ms"),
        ({"deadline_ms": None}, "deadline_ms"),
        ({"deadline_ms": "60000"}, "deadline_ms"),
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"id": 7}, "id"),
        ({"body": None}, "body"),
        ({"body": "Hi"}, "object"),
        ({"body": BODY | {"nonsense": 1}}, "nonsense"),
    ],
)
def test_a_key_that_is_wrong_is_named_in_the_error(change: dict[str, Any], param: str) -> None:
    (answer,) = said(Agent().ready(), envelope(**change))
    error = error_of(answer)
    assert error["code"] in ("invalid_request", "unsupported_parameter")
    assert param in f"{error['param']} {error['message']}"
    assert answer["id"] == ("p1" if "id" not in change else "")


def test_a_body_that_is_too_large_is_refused_and_one_that_fits_is_not() -> None:
    room = wire.MAX_BODY_BYTES - len(json.dumps(BODY))
    for more, kind in ((0, "accepted"), (1, "error")):
        text = "Hi" + "x" * (room + more)
        body = {"messages": [{"role": "user", "content": text}]}
        (answer,) = said(Agent().ready(), envelope(body=body))
        assert answer["kind"] == kind
    assert error_of(answer)["code"] == "payload_too_large"


@pytest.mark.parametrize("v", [2, 0, "1", 1.5, True, None, [1]])
def test_another_version_is_told_which_are_served(v: object) -> None:
    for send in (said, controlled):
        sent = envelope(kind="query") | {"v": v, "body": "of another shape"}
        (answer,) = send(Agent().ready(), sent)
        error = error_of(answer)
        assert (error["code"], answer["topic"]) == ("unsupported_version", HERE)
        assert "1" in error["message"]


def test_another_version_to_a_pool_is_not_answered_by_every_member() -> None:
    agent = Agent(pools=["lab"]).ready()
    topic = topics.pool_control_topic("lab", "alice")
    assert controlled(agent, envelope(v=2, kind="query"), topic=topic) == []


FOREIGN = [
    "edgekit/v1/res/bob/s",
    "edgekit/v1/res/alice/",
    "edgekit/v1/res/alice",
    "edgekit/v1/res/alice/+",
    "edgekit/v1/res/alice/#",
    "edgekit/v1/res/alice/a\0b",
    "edgekit/v1/res/alicelong/s",
    "edgekit/v1/dev/pi/status",
    "",
]


@pytest.mark.parametrize("reply_to", FOREIGN)
@pytest.mark.parametrize("v", [1, 2])
def test_a_foreign_address_gets_nothing_and_its_prompt_does_not_run(reply_to: str, v: int) -> None:
    agent = Agent().ready()
    assert said(agent, envelope(reply_to=reply_to, v=v)) == []
    assert controlled(agent, envelope(reply_to=reply_to, v=v, kind="query")) == []
    assert agent.ignored >= 1
    assert agent.disk == {}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"tell me a joke",
        b"\xff\xfe",
        json.dumps(BODY).encode(),
        json.dumps(envelope(reply_to=None)).encode(),
        json.dumps(envelope(reply_to=7)).encode(),
        b"[" + json.dumps(envelope()).encode() + b"]",
        json.dumps({"reply_to": HERE, "id": "p1", "body": BODY}).encode(),
        b'{"v":1,"reply_to":"' + HERE.encode() + b'","body":' + b"[" * 200_000,
    ],
)
def test_what_is_no_envelope_is_not_answered(payload: bytes) -> None:
    agent = Agent().ready()
    began = time.process_time()
    assert said(agent, payload) == []
    assert time.process_time() - began < 1
    assert (agent.disk, agent.ignored) == ({}, 1)


@pytest.mark.parametrize("key", ["v", "id", "want", "later", "body"])
def test_a_large_envelope_costs_little_memory_whatever_is_large_in_it(key: str) -> None:
    filler = b"[" + b"[]," * 300_000 + b"1]"
    payload = json.dumps(envelope() | {key: "HERE"}).encode().replace(b'"HERE"', filler)
    agent = Agent().ready()
    tracemalloc.start()
    (answer,) = said(agent, payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer["kind"] == ("accepted" if key == "later" else "error")
    assert peak < 3 * len(payload)


def test_a_retained_envelope_is_ignored() -> None:
    agent = Agent().ready()
    assert said(agent, envelope(), retain=True) == []
    assert controlled(agent, envelope(v=2, kind="query"), retain=True) == []
    assert agent.disk == {}


def test_with_a_response_topic_the_payload_is_the_body_whatever_it_looks_like() -> None:
    agent = Agent().ready()
    effects = agent.prompt(body=envelope())
    (message,) = replies(effects)
    assert json.loads(message.payload)["error"]["code"] == "unsupported_parameter"
    assert dict(message.user)["ek-kind"] == "error"


# --- the same id ------------------------------------------------------------------------------
def test_the_same_id_and_body_attaches_and_another_body_conflicts() -> None:
    agent = Agent().ready()
    said(agent, envelope())
    (again,) = said(agent, envelope(reply_to=HERE + "/2", deadline_ms=5))
    assert (again["kind"], again["topic"]) == ("accepted", HERE + "/2")
    other = {"messages": [{"role": "user", "content": "Ho"}]}
    (conflict,) = said(agent, envelope(body=other))
    assert error_of(conflict)["code"] == "id_conflict"
    (final,) = answers(agent.finishes())
    assert final["topic"] == HERE + "/2"
    (stored,) = said(agent, envelope())
    assert stored["payload"] == final["payload"]


def test_a_prompt_with_properties_may_be_asked_for_again_in_an_envelope() -> None:
    agent = Agent().ready()
    agent.prompt()
    (again,) = said(agent, envelope())
    assert again["kind"] == "accepted"
    (final,) = answers(agent.finishes())
    assert (final["kind"], final["topic"]) == ("final", HERE)


def test_an_old_reply_to_where_nobody_listens_does_not_matter_once_there_is_a_new_one() -> None:
    agent = Agent().ready()
    payload = json.dumps(envelope()).encode()
    taken = agent.handle(Received(wire.Inbound(topics.request_topic("pi", "alice"), payload)))
    said(agent, envelope(reply_to=HERE + "/2"))
    assert to_worker(agent.acknowledged(taken, code=0x10)) == []
    assert [a["topic"] for a in answers(agent.finishes())] == [HERE + "/2"]


def test_after_a_restart_it_is_still_answered_in_its_envelope() -> None:
    agent = Agent().ready()
    said(agent, envelope())
    again = agent.restarted().ready()
    (final,) = answers(again.finishes())
    assert (final["v"], final["kind"], final["id"]) == (1, "final", "p1")
    third = again.restarted()
    (resent,) = answers(third.ready().query())
    assert resent == final


# --- control ----------------------------------------------------------------------------------
def test_cancel_and_query_are_answered_where_their_envelope_says() -> None:
    agent = Agent().ready()
    said(agent, envelope())
    there = HERE + "/control"
    ask = {"v": 1, "reply_to": there, "id": "p1"}
    (state,) = controlled(agent, ask | {"kind": "query"})
    assert (state["topic"], state["kind"]) == (there, "state")
    assert state["payload"] == {"state": "running", "position": 0}
    message = wire.Inbound(
        topics.control_topic("pi", "alice"), json.dumps(ask | {"kind": "cancel"}).encode()
    )
    assert to_worker(agent.handle(Controlled(message))) == [Cancel("alice/p1")]
    (final,) = answers(agent.finishes(reason="cancelled"))
    assert (final["topic"], final["status"]) == (HERE, 499)
    (stored,) = controlled(agent, ask | {"kind": "cancel"})
    assert stored == final | {"topic": there}
    (unknown,) = controlled(agent, ask | {"kind": "query", "id": "p9"})
    assert (unknown["payload"], unknown["id"]) == ({"state": "unknown"}, "p9")


def test_a_control_message_without_an_envelope_is_answered_as_the_prompt_is() -> None:
    agent = Agent().ready()
    said(agent, envelope())
    (state,) = controlled(agent, {"kind": "query", "id": "p1"})
    assert (state["topic"], state["kind"]) == (HERE, "state")


def test_a_control_message_with_a_foreign_address_answers_where_the_prompt_is_answered() -> None:
    agent = Agent().ready()
    said(agent, envelope())
    sent = {"v": 1, "reply_to": "edgekit/v1/res/bob/s", "kind": "query", "id": "p1"}
    assert [a["topic"] for a in controlled(agent, sent)] == [HERE]


def test_the_worker_gets_the_body_s_own_choices() -> None:
    agent = Agent().ready()
    payload = json.dumps(envelope(body=BODY | {"max_tokens": 7, "seed": 3})).encode()
    effects = agent.handle(Received(wire.Inbound(topics.request_topic("pi", "alice"), payload)))
    (start,) = to_worker(effects)
    assert isinstance(start, Start)
    assert (start.answer_limit, start.sampling.seed) == (7, 3)


@pytest.mark.parametrize("text", ["a\u0001", "a\uffff", "\ufdd0", "\x7f", "\U0001fffe"])
def test_what_a_broker_would_end_our_connection_for_is_never_answered(text: str) -> None:
    topic = topics.request_topic("demo", "alice")
    given = {"v": 1, "id": text, "reply_to": "edgekit/v1/res/alice/1", "body": {}}
    message = wire.Inbound(topic, json.dumps(given).encode())
    assert wire.address_of(opened(message), "demo") is None
    given |= {"id": "p1", "reply_to": f"edgekit/v1/res/alice/{text}"}
    message = wire.Inbound(topic, json.dumps(given).encode())
    assert wire.address_of(opened(message), "demo") is None
    control = wire.Inbound(
        topics.control_topic("demo", "alice"), b"", response_topic="edgekit/v1/res/alice/1"
    )
    assert wire.control_address_of(control, wire.Control("query", text), "demo") is None
    assert wire.control_address_of(control, wire.Control("query", "p1"), "demo") is not None


def test_a_response_topic_of_hundreds_of_levels_is_none() -> None:
    topic = topics.request_topic("demo", "alice")
    deep = topics.response_prefix("alice") + "/" * 250
    message = wire.Inbound(topic, b"{}", response_topic=deep, correlation=b"c")
    assert wire.address_of(message, "demo") is None


@pytest.mark.parametrize(
    ("given", "media"),
    [
        ("", ""),
        *((text, wire.JSON) for text in (wire.JSON, "Application/JSON", "application/json ;a=b")),
        ('application/json; CHARSET="utf-8"', wire.JSON),
        *((text, wire.CBOR) for text in ("application/CBOR", "application/cbor;v=1; charset=utf8")),
        ("application/json;charset=latin1", "application/json;charset=latin1"),
        ("application/jsonl", "application/jsonl"),
    ],
)
def test_a_content_type_has_any_case_and_parameters(given: str, media: str) -> None:
    assert wire.media_type(given) == media


@pytest.mark.parametrize("content_type", ["Application/CBOR; v=1", wire.CBOR])
def test_a_body_and_a_control_are_cbor_in_any_spelling(content_type: str) -> None:
    agent = Agent().ready()
    effects = agent.prompt(payload=cbor2.dumps(BODY), content_type=content_type)
    (message,) = replies(effects)
    assert message.content_type == wire.CBOR
    assert cbor2.loads(message.payload) == {"position": 0}
    control = cbor2.dumps({"kind": "query", "id": "p1"})
    (message,) = replies(agent.query(payload=control, content_type=content_type))
    assert cbor2.loads(message.payload) == {"state": "running", "position": 0}
