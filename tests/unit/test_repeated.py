"""Keys that come twice in JSON are found, as Python's own json finds them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.protocol import envelope, topics, wire
from edgekit.core.repeated import check_keys

HERE = topics.response_prefix("alice") + "s"


class TwiceError(Exception):
    """A key comes twice."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise TwiceError
    return dict(pairs)


class Pairs(list[Any]):
    """An object whose keys may come twice."""


VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text('ab"\\{}[]:, é\n', max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.text('ab"\\', max_size=1), inner), max_size=3).map(Pairs)
    ),
    max_leaves=8,
)


def text_of(value: object, escaped: bool) -> str:
    if isinstance(value, Pairs):
        inner = (f"{json.dumps(key)}: {text_of(one, escaped)}" for key, one in value)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text_of(one, escaped) for one in value) + "]"
    return json.dumps(value, ensure_ascii=escaped)


@given(value=VALUES, escaped=st.booleans())
def test_it_finds_what_pythons_json_finds(value: object, escaped: bool) -> None:
    text = text_of(value, escaped)
    try:
        json.loads(text, object_pairs_hook=distinct)
    except TwiceError:
        with pytest.raises(ValueError, match="comes twice"):
            check_keys(text.encode())
    else:
        check_keys(text.encode())


@pytest.mark.parametrize(
    "text",
    [b"[" + b"[]," * 40_000 + b'{"a":1,"b":2}]', b'["' + b'\\"' * 60_000 + b'",{"a":1,"b":2}]'],
)
def test_a_large_text_takes_no_time(text: bytes) -> None:
    began = time.process_time()
    check_keys(text)
    assert time.process_time() - began < 1


def opened(text: str) -> wire.InboundPrompt:
    message = envelope.opened(wire.Inbound(topics.request_topic("pi", "alice"), text.encode()))
    reply = wire.address_of(message, "pi")
    assert reply is not None
    return envelope.parse_prompt(message, reply)


def test_an_envelope_with_a_key_twice_is_refused() -> None:
    good = f'{{"v": 1, "id": "p", "reply_to": "{HERE}", "deadline_ms": 5, "body": {{"a": 1}}'
    assert opened(good + "}").payload == b'{"a": 1}'
    for more in ('"body": {}', '"deadline_ms": 6', '"later": {"x": 1, "x": 2}', '"i\\u0064": "q"'):
        with pytest.raises(wire.ProtocolError, match="comes twice"):
            opened(f"{good}, {more}}}")


def test_a_control_with_a_key_twice_is_none() -> None:
    assert wire.parse_control(b'{"kind": "cancel", "id": "a"}') is not None
    assert wire.parse_control(b'{"kind": "cancel", "id": "a", "id": "b"}') is None
    assert wire.parse_control(b'{"kind": "cancel", "id": "a", "kind": "query"}') is None
