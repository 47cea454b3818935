"""CBOR: as strict as JSON, bounded, and answered in CBOR."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import cbor2
import pytest

from edgekit.agent.serve.pipe import Generated
from edgekit.agent.serve.session.events import Controlled
from edgekit.core.chat.body import parse_body
from edgekit.core.protocol import cbor, topics, wire
from tests.harness.session import BODY, Agent, replies

FULL: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Bé brief ☕"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ],
    "stop": ["a"],
    "temperature": 0.5,
    "max_tokens": 3,
    "seed": 2**63 - 1,
    "logit_bias": {"2": -100, "7": 1.5},
    "stream": True,
    "top_p": None,
}


def prompt(agent: Agent, payload: bytes, **changes: Any) -> tuple[Any, ...]:
    return agent.prompt(payload=payload, content_type=wire.CBOR, **changes)


def error(payload: bytes) -> dict[str, Any]:
    """What a prompt of these bytes is answered; nothing of it is kept."""
    agent = Agent().ready()
    (message,) = replies(prompt(agent, payload))
    assert message.content_type == wire.CBOR
    assert agent.disk == {}
    answer: dict[str, Any] = cbor2.loads(message.payload)["error"]
    return answer


def test_a_body_means_the_same_in_cbor_as_in_json() -> None:
    assert parse_body(cbor2.dumps(FULL), "cbor") == parse_body(json.dumps(FULL).encode())


def test_a_body_in_cbor_leaves_the_parameters_of_a_tool_12_levels_and_arguments_32() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"default": nested(levels - 1)} if levels else {"description": "x"}

    def tools(levels: int) -> bytes:
        function = {"name": "f", "parameters": nested(levels - 1)}
        return cbor2.dumps(BODY | {"tools": [{"type": "function", "function": function}]})

    call = {"name": "f", "arguments": json.dumps(nested(31))}
    calls = [{"id": "a", "type": "function", "function": call}]
    messages = [*BODY["messages"], {"role": "assistant", "tool_calls": calls}]
    assert parse_body(tools(12), "cbor").tools
    assert parse_body(cbor2.dumps({"messages": messages}), "cbor").messages
    with pytest.raises(wire.ProtocolError, match="16"):
        parse_body(tools(13), "cbor")


def test_every_reply_is_cbor_of_the_same_values_with_its_content_type() -> None:
    ours, theirs = Agent().ready(), Agent().ready()
    pairs = [
        (prompt(ours, cbor2.dumps(BODY)), theirs.prompt()),
        (ours.handle(Generated("alice/p1", "Hel")), theirs.handle(Generated("alice/p1", "Hel"))),
        (ours.finishes(), theirs.finishes()),
        (prompt(ours, cbor2.dumps(BODY)), theirs.prompt()),  # the stored one
    ]
    for mine, other in pairs:
        (said,), (plain,) = replies(mine), replies(other)
        assert (said.content_type, plain.content_type) == (wire.CBOR, wire.JSON)
        assert cbor2.loads(said.payload) == json.loads(plain.payload)
        assert (said.topic, said.user) == (plain.topic, plain.user)
        assert said.correlation == plain.correlation


def test_a_prompt_in_cbor_is_read_again_after_a_restart() -> None:
    agent = Agent()
    prompt(agent, cbor2.dumps(BODY))
    again = agent.restarted()
    assert replies(again.ready().finishes())[0].content_type == wire.CBOR


def test_cancel_and_query_may_be_cbor_and_are_answered_so() -> None:
    agent = Agent().ready()
    prompt(agent, cbor2.dumps(BODY))
    message = wire.Inbound(
        topics.control_topic("pi", "alice"),
        cbor2.dumps({"kind": "query", "id": "p1"}),
        response_topic=topics.response_prefix("alice") + "c",
        content_type=wire.CBOR,
    )
    (state,) = replies(agent.handle(Controlled(message)))
    assert cbor2.loads(state.payload) == {"state": "running", "position": 0}
    broken = wire.Inbound(message.topic, b"\xa2\x01", content_type=wire.CBOR)
    assert replies(agent.handle(Controlled(broken))) == []


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"nonsense": 1}, "unsupported_parameter", "nonsense"),
        ({"temperature": 3}, "invalid_request", "temperature"),
        ({"temperature": math.nan}, "invalid_request", "temperature"),
        ({"temperature": math.inf}, "invalid_request", "temperature"),
        ({"seed": 2**64 - 1}, "invalid_request", "seed"),
        ({"max_tokens": 1.5}, "invalid_request", "max_tokens"),
        ({"stop": b"a"}, "invalid_request", "stop"),
        ({"stop": cbor2.undefined}, "invalid_request", "stop"),
        ({"stream": cbor2.CBORSimpleValue(99)}, "invalid_request", "stream"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "invalid_request", "messages[0]"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(
    change: dict[str, Any], code: str, param: str
) -> None:
    answer = error(cbor2.dumps(FULL | change))
    assert answer["code"] == code
    assert param in answer["param"]


# --- hostile bytes ----------------------------------------------------------------------------
BODY_BYTES = cbor2.dumps(BODY)
LARGEST = wire.MAX_BODY_BYTES
TWICE = b"\xa2" + 2 * (cbor2.dumps("messages") + cbor2.dumps(BODY["messages"]))
HOSTILE = {
    "nothing": b"",
    "JSON": json.dumps(BODY).encode(),
    "cut off": BODY_BYTES[:-1],
    "something after it": BODY_BYTES + b"\x00",
    "bottomless arrays": b"\x81" * LARGEST,
    "bottomless maps": b"\xa1\x61a" * (LARGEST // 3),
    "bottomless tags": b"\xc6" * LARGEST,
    "bottomless tags in use": b"\xd8\x1c" * (LARGEST // 2),
    "an array of 2^63": b"\x9b\x7f" + b"\xff" * 7,
    "a map of 2^63": b"\xbb\x7f" + b"\xff" * 7,
    "a string of 2^63": b"\x7b\x7f" + b"\xff" * 7,
    "bytes of 2^63": b"\x5b\x7f" + b"\xff" * 7,
    "arrays of 2^32 in each other": b"\x9a\xff\xff\xff\xff" * 10,
    "as many maps as fit": b"\x9a" + (LARGEST - 5).to_bytes(4, "big") + b"\xa0" * (LARGEST - 5),
    "an indefinite array": b"\x9f" + BODY_BYTES + b"\xff",
    "an indefinite map": b"\xbf" + BODY_BYTES[1:] + b"\xff",
    "an indefinite string": b"\xa1\x7f\x61m\xff\x80",
    "a key twice": TWICE,
    "a long key twice": b"\xa2" + 2 * (cbor2.dumps("k" * 9999) + b"\x01"),
    "a key that is an array": b"\xa1\x81\x01\x01",
    "a key that is a number": b"\xa1\x01\x01",
    "a key that is bytes": b"\xa1\x41m\x01",
    "a self-described tag": b"\xd9\xd9\xf7" + BODY_BYTES,
    "an array that holds itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a bignum": b"\xc2\x5a\x00\x00\xff\xff" + b"\xff" * 0xFFFF,
    "a bigfloat": b"\xc5\x82\x1a\x7f\xff\xff\xff\x01",
    "a fraction": b"\xc4\x82\x1a\x7f\xff\xff\xff\x01",
    "a pattern": b"\xd8\x23\x6c" + b"(a*)*(a*)*$$",
    "a break alone": b"\xff",
    "no UTF-8": b"\xa1\x62\xff\xff\x01",
    "a reserved length": b"\x1c",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_are_refused_in_bounded_time_and_memory(what: str) -> None:
    tracemalloc.start()
    began = time.monotonic()
    answer = error(HOSTILE[what])
    seconds = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer["code"] == "invalid_request"
    assert len(answer["message"]) < 400
    assert seconds < 1
    assert peak < 20 << 20


WELL_FORMED = ("as many maps as fit", "a key that is bytes")  # their types alone are wrong


@pytest.mark.parametrize("what", [what for what in HOSTILE if what not in WELL_FORMED])
def test_hostile_bytes_are_refused_before_their_meaning_is_looked_at(what: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        cbor.decode(HOSTILE[what])


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x61a"])
def test_nesting_ends_at_the_depth_that_is_named(opening: bytes) -> None:
    assert cbor.decode(opening * cbor.MAX_DEPTH + b"\x01")
    with pytest.raises(ValueError, match="depth"):
        cbor.decode(opening * (cbor.MAX_DEPTH + 1) + b"\x01")


def test_a_body_that_is_too_large_is_not_read() -> None:
    assert error(b"\x9f" * (LARGEST + 1))["code"] == "payload_too_large"


def test_another_content_type_is_refused_and_both_are_named() -> None:
    for served in (wire.JSON, wire.CBOR):
        (message,) = replies(Agent().ready().prompt(content_type="application/msgpack"))
        body = json.loads(message.payload)["error"]
        assert body["code"] == "unsupported_media_type"
        assert served in body["message"]


def test_cbor2_is_not_loaded_until_somebody_speaks_cbor() -> None:
    script = (
        "import sys, edgekit.agent.serve.loop.service; assert 'cbor2' not in sys.modules;"
        "from edgekit.core.protocol import cbor; cbor.decode(b'\\x01');"
        "assert 'cbor2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=os.environ)
