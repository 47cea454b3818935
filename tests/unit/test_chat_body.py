"""The body of a prompt: what is served has its bounds, what is not is refused by name."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest

from edgekit.core.chat.body import parse_body
from edgekit.core.chat.sampling import Sampling, sampling_of
from edgekit.core.protocol.wire import ProtocolError

MESSAGES = [{"role": "user", "content": "Hi"}]


def parse(**fields: Any) -> Sampling:
    """The sampling that a body asks for, over a bundle that samples."""
    body = json.dumps({"messages": MESSAGES, **fields}).encode()
    return sampling_of(parse_body(body), {"temperature": 0.7, "top_k": 40})


def test_every_field_of_sampling_reaches_the_sampler_over_the_bundles_defaults() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
        "seed": 7,
    }
    assert parse(**fields, logit_bias={"12": -100, "0": 2.5}) == Sampling(
        **fields, logit_bias={12: -100.0, 0: 2.5}
    )
    assert parse() == Sampling(temperature=0.7, top_k=40)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"repetition_penalty": 1.1},
        {"temperature": 0.1},
    ],
)
def test_the_runtime_chooses_by_itself_only_what_nothing_changes(fields: dict[str, Any]) -> None:
    assert parse(temperature=0, min_p=0.1, top_p=0.5).plain_greedy
    assert not parse(**{"temperature": 0, **fields}).plain_greedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", 1.1),
        *(("top_k", 2**63), ("max_tokens", 2**63), ("max_completion_tokens", 10**30)),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"word": 1}),
        *(("logit_bias", {token: 1}) for token in ("-0", "00", " 5", "5 ", "05", "+5", "5.0")),
        ("logit_bias", {"0": 1, "-0": 2}),
        ("logit_bias", {str(token): 0 for token in range(1025)}),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_field(field: str, value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**{field: value})
    assert caught.value.code == "invalid_request"
    assert caught.value.param.partition("[")[0] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("n", 2), ("n", 0), ("n", True), ("n", "1")),
        *(("functions", [{}]), ("function_call", {"name": "f"}), ("parallel_tools", True)),
        *(("modalities", ["text", "audio"]), ("modalities", []), ("audio", {})),
        *(("prediction", {}), ("verbosity", "high")),
        *(("web_search_options", {}), ("typical_p", 1), ("best_of", 1), ("echo", False)),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**{field: value, "another": None})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)


# The fields of the OpenAI API reference that change no answer, as SDKs and gateways send them.
HARMLESS: dict[str, list[Any]] = {
    "n": [1],
    "logprobs": [False],
    "top_logprobs": [0],
    "response_format": [{"type": "text"}, {"type": "text", "json_schema": None}],
    "modalities": [["text"]],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "user": ["u-1", ""],
    "safety_identifier": ["s"],
    "prompt_cache_key": ["k"],
    "prompt_cache_retention": ["24h"],
    "prompt_cache_options": [{"mode": "explicit"}],
    "service_tier": ["auto", "flex"],
    "metadata": [{}, {"a": "b"}],
    "store": [True, False],
    "stream": [True, False],
    "stream_options": [{}, {"include_usage": True}, {"include_obfuscation": False}],
}
NULLS = (
    *("audio", "prediction", "reasoning_effort", "verbosity", "web_search_options", "moderation"),
    *("temperature", "top_p", "seed", "stop", "max_tokens", "logit_bias", "not_invented_yet"),
)


@pytest.mark.parametrize("encoding", ["", "cbor"])
@pytest.mark.parametrize("field", [*HARMLESS, *NULLS])
def test_a_field_that_changes_nothing_is_taken(field: str, encoding: str) -> None:
    for value in (*HARMLESS.get(field, ()), None):
        body = {"messages": MESSAGES, field: value}
        read = parse_body(written(body, encoding), encoding)
        assert sampling_of(read, {}) == Sampling()
        assert (read.answer_limit, read.stops) == (None, [])


def written(body: object, encoding: str) -> bytes:
    return cbor2.dumps(body) if encoding == "cbor" else json.dumps(body).encode()


ECHO: dict[str, Any] = {
    "role": "assistant",
    "content": "Hello.",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": None,
    "parsed": None,
    "name": None,
}


@pytest.mark.parametrize("encoding", ["", "cbor"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tool_calls": []},
        {"annotations": None},
        {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]},
        {"content": [{"type": "text", "text": "Hello.", "annotations": None}]},
    ],
)
def test_an_assistants_message_is_taken_as_sdks_echo_it(
    changes: dict[str, Any], encoding: str
) -> None:
    body = {"messages": [*MESSAGES, ECHO | changes, *MESSAGES], "logit_bias": {"7": 1}}
    read = parse_body(written(body, encoding), encoding)
    assert [message.text for message in read.messages] == ["Hi", "Hello.", "Hi"]
    assert read.logit_bias == {7: 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("refusal", "no"), ("audio", {"id": "a"}), ("annotations", [{}])),
        *(("function_call", "none"), ("weight", 1)),
    ],
)
def test_what_an_assistants_message_says_beside_its_text_is_refused_by_name(
    field: str, value: object
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(messages=[*MESSAGES, ECHO | {field: value}])
    param = f"messages[1].{field}"
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize("content", [None, 5, {"type": "text", "text": "x"}, [None], [{}]])
def test_a_message_without_text_stays_refused(content: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(messages=[{"role": "user", "content": content}], another=None)
    assert caught.value.code == "invalid_request"
    assert caught.value.param.startswith("messages[0].content")


def test_an_assistants_message_may_be_the_last() -> None:
    read = parse_body(json.dumps({"messages": [*MESSAGES, ECHO]}).encode())
    assert read.messages[-1].role == "assistant"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
        ('{"messages": [{"role": "user", "content": "a"}], "seed": 1, "seed": 1}', "seed"),
        ('{"messages": [{"role": "user", "role": "user", "content": "{"}]}', "role"),
        ('{"messages": [{"role": "user", "content": "a"}], "s\\u0065ed": 1, "seed": 2}', "seed"),
        ('{"messages": [{"role": "user", "content": "a"}], "x": null, "x": null}', "x"),
        (
            '{"messages": [{"role": "user", "content": "a"}], "metadata": {"m": {"a": 1, "a": 2}}}',
            "a",
        ),
    ],
)
def test_a_key_that_comes_twice_is_refused_by_name(text: str, key: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_body(text.encode())
    assert caught.value.code == "invalid_request"
    assert repr(key) in caught.value.what


@pytest.mark.parametrize("encoding", ["", "cbor"])
def test_a_null_type_says_nothing_where_no_part_has_one(encoding: str) -> None:
    body = {"messages": [{"role": "user", "content": "a", "type": None}], "type": None}
    data = cbor2.dumps(body) if encoding == "cbor" else json.dumps(body).encode()
    read = parse_body(data, encoding)
    assert read.messages[0].text == "a"
