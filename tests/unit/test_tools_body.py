"""Tools, calls and results in a prompt's body: what is taken, and what is refused by its field."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest

from edgekit.core.chat.body import parse_body
from edgekit.core.chat.request import ChatRequest
from edgekit.core.chat.tools.request import NamedTool, forced_tools, offered
from edgekit.core.protocol.wire import ProtocolError

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Now.", "parameters": PARAMETERS},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
USER = {"role": "user", "content": "How is it in Paris?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"}

OTHER = {**CALL, "id": "call_2"}
TWO_CALLED = {**CALLED, "tool_calls": [CALL, OTHER]}
SECOND = {**RESULT, "tool_call_id": "call_2"}


def parse(*messages: dict[str, Any], encoding: str = "", **more: Any) -> ChatRequest:
    body = {"messages": list(messages) or [USER], **more}
    written = cbor2.dumps(body) if encoding else json.dumps(body).encode()
    return parse_body(written, encoding)


@pytest.mark.parametrize("encoding", ["", "cbor"])
def test_tools_calls_and_results_are_read(encoding: str) -> None:
    request = parse(USER, CALLED, RESULT, USER, tools=[TOOL], encoding=encoding)
    assert request.tools is not None
    (tool,) = request.tools
    assert (tool.function.name, tool.function.parameters) == ("get_weather", PARAMETERS)
    _, called, result, _ = request.messages
    assert called.tool_calls is not None
    assert called.tool_calls[0].function.arguments == '{"city": "Paris"}'
    assert (called.content, called.text) == (None, "")
    assert (result.role, result.tool_call_id, result.text) == ("tool", "call_1", "21 degrees")


@pytest.mark.parametrize("encoding", ["", "cbor"])
def test_nulls_as_sdks_send_them_say_nothing(encoding: str) -> None:
    function = {**CALL["function"], "parsed_arguments": None}  # type: ignore[dict-item]  # wrong on purpose
    called = {**CALLED, "tool_calls": [{**CALL, "function": function}], "refusal": None}
    tool = {"type": "function", "function": {**TOOL["function"], "strict": None, "x": None}}  # type: ignore[dict-item]  # wrong on purpose
    request = parse(USER, called, RESULT, tools=[tool], tool_choice=None, encoding=encoding)
    assert request.messages[1].tool_calls is not None


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_a_choice_is_a_word(choice: str) -> None:
    assert parse(tools=[TOOL], tool_choice=choice).tool_choice == choice


def test_a_choice_is_a_tool() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    choice = parse(tools=[TOOL], tool_choice=named).tool_choice
    assert isinstance(choice, NamedTool)
    assert choice.function.name == "get_weather"


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("encoding", ["", "cbor"])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_choice_is_some_of_the_tools(mode: str, encoding: str) -> None:
    tools = [TOOL, tool(), tool(name="g")]
    choice = allowed("g", "get_weather", mode=mode)
    request = parse(tools=tools, tool_choice=choice, encoding=encoding)
    assert [each.function.name for each in offered(request)] == ["get_weather", "g"]
    assert forced_tools(request) == (offered(request) if mode == "required" else [])


@pytest.mark.parametrize("choice", ["none", "auto", None])
def test_without_tools_a_choice_of_none_says_nothing(choice: str | None) -> None:
    assert parse(tool_choice=choice, tools=[], parallel_tool_calls=True).tools == []


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def called(**changes: Any) -> dict[str, Any]:
    return {**CALLED, "tool_calls": [{**CALL, **changes}]}


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("tools[1].function.name", {"tools": [TOOL, TOOL]}),
    ("tools[0].function.name", {"tools": [tool(name="get weather")]}),
    ("tools[0].function.name", {"tools": [tool(name="x" * 65)]}),
    ("tools[0].function.name", {"tools": [tool(name="f\n")]}),
    ("tools[0].function.parameters", {"tools": [tool(parameters=nested(40))]}),
    ("tools[0].function.parameters", {"tools": [tool(parameters={"type": "string"})]}),
    ("tools[0].type", {"tools": [{"type": "custom", "function": {"name": "f"}}]}),
    ("tools", {"tools": [tool(name=f"f{number}") for number in range(129)]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": "any"}),
    (
        "tool_choice",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    ),
    (
        "tool_choice.allowed_tools.tools[1].function.name",
        {"tools": [TOOL], "tool_choice": allowed("get_weather", "f")},
    ),
    ("tool_choice.allowed_tools.tools[0].function.name", {"tool_choice": allowed("get_weather")}),
    ("tool_choice.allowed_tools.tools", {"tools": [TOOL], "tool_choice": allowed()}),
    (
        "tool_choice.allowed_tools.mode",
        {"tools": [TOOL], "tool_choice": allowed("get_weather", mode="none")},
    ),
    ("num_beams", {"tools": [TOOL], "num_beams": 2}),
    ("messages[0].content", {"messages": [{"role": "user", "content": None}]}),
    ("messages[0].content", {"messages": [{"role": "assistant"}]}),
    ("messages[0].tool_calls", {"messages": [{**USER, "tool_calls": [CALL]}]}),
    ("messages[0].tool_call_id", {"messages": [{**USER, "tool_call_id": "call_1"}]}),
    ("messages[0].tool_call_id", {"messages": [RESULT]}),
    ("messages[1].tool_call_id", {"messages": [CALLED, {**RESULT, "tool_call_id": None}]}),
    ("messages[1].tool_call_id", {"messages": [CALLED, {**RESULT, "tool_call_id": "other"}]}),
    ("messages[2].tool_call_id", {"messages": [CALLED, RESULT, RESULT]}),
    ("messages[0].tool_calls[0]", {"messages": [TWO_CALLED, SECOND]}),
    ("messages[0].tool_calls[1]", {"messages": [TWO_CALLED, RESULT]}),
    ("messages[0].tool_calls[1]", {"messages": [TWO_CALLED, RESULT, USER, SECOND]}),
    ("messages[2].tool_call_id", {"messages": [CALLED, {**CALLED, "tool_calls": [OTHER]}, RESULT]}),
    ("messages[0].tool_calls[1].id", {"messages": [{**CALLED, "tool_calls": [CALL, CALL]}]}),
    *(
        (
            "messages[0].tool_calls[0].function.arguments",
            {"messages": [called(function={"name": "f", "arguments": text})]},
        )
        for text in (
            "",
            "{",
            "[]",
            '"x"',
            '{"a": {"b": 1, "b": 2}}',
            json.dumps(nested(40)),
            "[" * 100_000,
        )
    ),
]


@pytest.mark.parametrize(("param", "body"), REFUSED)
def test_what_makes_no_sense_is_refused_with_its_field(param: str, body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_body(json.dumps({"messages": [USER], **body}).encode())
    assert caught.value.param == param
    assert caught.value.code in {"invalid_request", "unsupported_parameter"}


def test_a_later_call_may_have_the_id_of_one_that_has_its_result() -> None:
    assert len(parse(USER, CALLED, RESULT, CALLED, RESULT).messages) == 5


def test_calls_may_have_no_results_at_all() -> None:
    assert len(parse(USER, TWO_CALLED, USER, CALLED, USER, RESULT).messages) == 6


def test_an_unknown_field_of_a_tool_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(tools=[tool(cache=True)])
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == "tools[0].function.cache"


def test_tools_and_calls_count_as_text() -> None:
    plain, full = parse(USER).text_bytes, parse(USER, CALLED, RESULT, tools=[TOOL]).text_bytes
    assert full - plain > len(json.dumps([TOOL, CALL], separators=(",", ":"))) - 20


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, 10**30, cbor2.undefined, b"x", float("nan"), cbor2.CBORSimpleValue(99)],
)
def test_a_value_that_json_or_64_bits_do_not_have_is_refused_by_its_field(value: Any) -> None:
    """It could not be sent to the model's process, or no template could write it."""
    encodings = [""] if isinstance(value, int) else ["cbor"]  # in CBOR most are tags
    deep = {"type": "object", "properties": {"a": {"type": "integer", "maximum": [value]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    for encoding in encodings:
        for param, more in (
            ("tools[0].function.parameters", {"tools": [tool]}),
            ("chat_template_kwargs.x", {"chat_template_kwargs": {"x": value}}),
        ):
            with pytest.raises(ProtocolError) as caught:
                parse(USER, encoding=encoding, **more)
            assert caught.value.code == "invalid_request"
            assert caught.value.param.startswith(param.partition(".x")[0])


def test_an_integer_beyond_64_bits_in_the_arguments_of_a_call_is_refused_by_its_field() -> None:
    function = {"name": "get_weather", "arguments": f'{{"a":[{10**30}]}}'}
    called = {**CALLED, "tool_calls": [{**CALL, "function": function}]}
    with pytest.raises(ProtocolError) as caught:
        parse(USER, called, RESULT)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


def test_the_integers_of_64_bits_are_taken() -> None:
    parameters = {"properties": {"a": {"minimum": -(2**63), "maximum": 2**64 - 1}}}
    for encoding in ("", "cbor"):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert parse(USER, tools=[tool], encoding=encoding).tools is not None
