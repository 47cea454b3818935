"""Tool calls of a real model through a device and a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import jsonschema
import msgspec
import pytest

from edgekit.client import Delta, Final, Requester
from edgekit.core.chat.calls import ToolCallDelta, joined
from edgekit.core.protocol.wire import ProtocolError
from tests.conftest import Project

pytestmark = pytest.mark.timeout(600)

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 24},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit", "days"],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Says what the weather will be.",
            "parameters": WEATHER,
        },
    },
    {"type": "function", "function": {"name": "ring_bell", "description": "Rings the bell."}},
]
ASKED = [{"role": "user", "content": "What will the weather be in Paris?"}]


@pytest.fixture
def requester(device: Project) -> Iterator[Requester]:
    with Requester(device.broker, "tools") as requester:
        yield requester


def asked(requester: Requester, **body: Any) -> tuple[list[Delta], Final]:
    """The deltas and the final of a prompt with the tools."""
    prompt = {"messages": ASKED, "tools": TOOLS, "max_tokens": 160, "temperature": 0, **body}
    replies = list(requester.ask("demo", prompt))
    final = replies[-1]
    assert isinstance(final, Final)
    return [each for each in replies if isinstance(each, Delta)], final


def test_a_named_tool_is_called_with_arguments_that_fit(requester: Requester) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    deltas, final = asked(requester, tool_choice=named)
    (call,) = final.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    assert (final.finish_reason, final.text, final.message["content"]) == ("tool_calls", "", None)
    told = (delta.chunk["choices"][0]["delta"].get("tool_calls") or [] for delta in deltas)
    pieces = msgspec.convert(list(chain.from_iterable(told)), list[ToolCallDelta])
    assert joined(pieces) == final.tool_calls
    assert len(pieces) > 1, "the arguments came in pieces"
    assert not any(delta.text for delta in deltas)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_required_call_parses_whatever_the_model_likes(
    requester: Requester, temperature: float
) -> None:
    for seed in range(1 + 3 * int(temperature)):
        _, final = asked(
            requester,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=temperature,
            seed=seed,
        )
        (call,) = final.tool_calls
        assert final.finish_reason == "tool_calls"
        arguments = json.loads(call.function.arguments)
        if call.function.name == "get_weather":
            jsonschema.validate(arguments, WEATHER)
        else:
            assert (call.function.name, arguments) == ("ring_bell", {})


def test_the_result_goes_back_and_the_model_answers_in_words(requester: Requester) -> None:
    _, called = asked(requester, tool_choice="required", parallel_tool_calls=False)
    (call,) = called.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sun"}
    messages = [*ASKED, called.message, result]
    _, final = asked(requester, messages=messages, tool_choice="none", max_tokens=30)
    assert final.text
    assert not final.tool_calls
    assert "tool_calls" not in final.message


def test_with_the_choice_none_the_answer_is_that_without_tools(requester: Requester) -> None:
    _, none = asked(requester, tool_choice="none", max_tokens=16)
    _, plain = asked(requester, tools=[], max_tokens=16)
    assert none.text == plain.text


def test_what_was_cut_says_so(requester: Requester) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    _, final = asked(requester, tool_choice=named, max_tokens=16)
    assert final.finish_reason == "length"


def test_a_schema_that_cannot_be_enforced_is_refused(requester: Requester) -> None:
    function = {"name": "f", "parameters": {"type": "object", "unevaluatedProperties": False}}
    tools = [{"type": "function", "function": function}]
    with pytest.raises(ProtocolError) as caught:
        asked(requester, tools=tools, tool_choice="required")
    assert caught.value.param == "tools[0].function.parameters"
