"""What a model's chat template gets of a prompt with tools, and what the answer must be. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count, groupby
from typing import Any, NamedTuple

import msgspec

from edgekit.core import pictures
from edgekit.core.chat.calls import ToolCall
from edgekit.core.chat.constraint.constraint import constraint_of
from edgekit.core.chat.request import ChatMessage, ChatRequest
from edgekit.core.chat.tools.check import arguments_of
from edgekit.core.chat.tools.forcing import binds_calls
from edgekit.core.chat.tools.formats import Calling, ToolFormat, format_of, written
from edgekit.core.chat.tools.request import Tool, forced_tools, may_repeat, offered

Turn = tuple[str, pictures.Content] | dict[str, Any]


class Told(NamedTuple):
    """What the template gets: messages, and tools where it takes these itself."""

    messages: list[Turn]
    tools: list[dict[str, Any]]


def told(request: ChatRequest, how: ToolFormat) -> Told:
    """Return what the template gets of a prompt.

    With `tool_choice` `none` the model is not told of the tools.

    Args:
        request: the prompt's body, checked.
        how: how the model is told.
    """
    messages = _with_results_in_order(request.messages)
    if how.calls == "none":
        turns = _as_texts(messages, how)
    else:
        turns = [_turn(message, how) for message in messages]
    tools = offered(request)
    if not tools:
        return Told(turns, [])
    shown = [_shown(tool) for tool in tools]
    if how.told == "template":
        return Told(turns, shown)
    if how.told == "field":
        first = _first(turns, "system")
        system = {"role": "system", "content": first, "tools": json.dumps(_functions(shown))}
        return Told([system, *turns[bool(_leads(turns, "system")) :]], [])
    return Told(_with_text(turns, how.told, _listing(shown, how)), [])


def calling(request: ChatRequest, how: ToolFormat) -> Calling | None:
    """Return how the answer's calls are read; None if there can be none."""
    tools, forced = offered(request), bool(forced_tools(request))
    if not tools:
        return None
    either = not forced and constraint_of(request) is not None
    return Calling(
        how.name,
        [tool.function.name for tool in tools],
        list(how.tokens),
        single=not may_repeat(request),
        free=not forced and not either,
        bound=binds_calls(request),
        json=either,
    )


def _with_results_in_order(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Return the messages with results in the order of their calls, each with its function's name.

    A requester says by an id which call a result belongs to. Most templates leave the ids out, so
    that the model goes by the order, or by the names.
    """
    places: dict[str | None, tuple[int, str]] = {}  # of a call's id: which call it is, and of what
    number = count()
    ordered: list[ChatMessage] = []
    for is_result, some in groupby(messages, lambda message: message.role == "tool"):
        if is_result:
            ordered += sorted(
                (_named(each, places[each.tool_call_id][1]) for each in some),
                key=lambda each: places[each.tool_call_id][0],
            )
            continue
        for message in some:
            ordered.append(message)
            for call in message.tool_calls or ():
                places[call.id] = next(number), call.function.name
    return ordered


def _named(result: ChatMessage, function: str) -> ChatMessage:
    return result if result.name else msgspec.structs.replace(result, name=function)


def _turn(message: ChatMessage, how: ToolFormat) -> Turn:
    """Return a message as transformers takes it: a pair where it has no more than a text."""
    more: dict[str, Any] = {**message.further}
    if message.tool_calls:
        more["tool_calls"] = [_call(call, how) for call in message.tool_calls]
    if message.tool_call_id is not None:
        more["tool_call_id"] = message.tool_call_id
    if not more:
        return message.turn
    content = None if message.content is None and how.null else message.parts
    return {**_fields(message.turn), "content": content, **more}


def _fields(turn: Turn) -> dict[str, Any]:
    return {"role": turn[0], "content": turn[1]} if isinstance(turn, tuple) else turn


def _call(call: ToolCall, how: ToolFormat) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    if how.calls == "object":
        arguments = arguments_of(arguments)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _shown(tool: Tool) -> dict[str, Any]:
    """Return a tool as the model sees it: `strict` is between the requester and the device."""
    function = msgspec.structs.replace(tool.function, strict=None)
    return {"type": "function", "function": msgspec.to_builtins(function)}


def _functions(shown: Sequence[dict[str, Any]]) -> list[Any]:
    return [tool["function"] for tool in shown]


# --- for templates that know no tools -------------------------------------------------------------
def _as_texts(messages: Sequence[ChatMessage], how: ToolFormat) -> list[Turn]:
    """Return calls and results as the texts of messages; results are the user's."""
    turns: list[Turn] = []
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            results.append(f"<tool_response>\n{message.text}\n</tool_response>")
            continue
        if results:
            turns.append(("user", "\n".join(results)))
            results = []
        turn = message.turn
        if message.tool_calls:
            calls = ((call.function.name, call.function.arguments) for call in message.tool_calls)
            lines = [message.text, written(format_of(how.name), calls)]
            turn = {**_fields(turn), "content": "\n".join(line for line in lines if line)}
        turns.append(turn)
    return [*turns, ("user", "\n".join(results))] if results else turns


def _listing(shown: Sequence[dict[str, Any]], how: ToolFormat) -> str:
    functions = "\n".join(json.dumps(each, ensure_ascii=False) for each in _functions(shown))
    example = written(format_of(how.name), [("NAME", "{ARGUMENTS}")])
    return (
        f"You can call these functions:\n{functions}\n"
        f"To call a function, answer with nothing but\n{example}"
    )


def _with_text(turns: list[Turn], role: str, text: str) -> list[Turn]:
    """Return the messages with a text in the first one, if that has the role, or before it."""
    if not _leads(turns, role):
        return [(role, text), *turns]
    content = _first(turns, role)
    if isinstance(content, str):
        joined = f"{content}\n\n{text}" if role == "system" else f"{text}\n\n{content}"
        return [(role, joined), *turns[1:]]
    return [(role, [f"{text}\n\n", *content]), *turns[1:]]


def _leads(turns: Sequence[Turn], role: str) -> bool:
    first = turns[0]
    found = first[0] if isinstance(first, tuple) else first["role"]
    return bool(found == role or (role == "system" and found == "developer"))


def _first(turns: Sequence[Turn], role: str) -> Any:
    """Return the content of the first message if it has the role, else an empty one."""
    if not _leads(turns, role):
        return ""
    first = turns[0]
    return first[1] if isinstance(first, tuple) else first["content"]
