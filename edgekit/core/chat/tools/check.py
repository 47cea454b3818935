"""Checks what a prompt says about tools: those it offers, its earlier calls and results. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgekit.core.chat.tools.request import AllowedTools, NamedTool, Tool
from edgekit.core.protocol.wire import ProtocolError
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys

if TYPE_CHECKING:
    from edgekit.core.chat.request import ChatMessage, ChatRequest

MAX_DEPTH = 32  # of a tool's parameters and of a call's arguments
CALLED = ("required",)  # the words of `tool_choice` that need a tool


def check_tools(request: ChatRequest) -> None:
    """Check tools, choice, calls and results of a body.

    Raises:
        ProtocolError: `invalid_request` or `unsupported_parameter`, with the field in `param`.
    """
    tools = request.tools or []
    _check_offered(tools)
    _check_choice(request, tools)
    last = _LastCalls()
    for number, message in enumerate(request.messages):
        if message.role != "tool":
            last.check_whole()
        _check_message(message, f"messages[{number}]", last)
    last.check_whole()


def _check_offered(tools: Sequence[Tool]) -> None:
    names: set[str] = set()
    for number, tool in enumerate(tools):
        where = f"tools[{number}].function"
        name = tool.function.name
        if name in names:
            raise _invalid(f"two tools have the name {name}", f"{where}.name")
        names.add(name)
        schema = tool.function.parameters or {}
        if _deeper(schema, MAX_DEPTH):
            raise _invalid(f"the schema is deeper than {MAX_DEPTH} levels", f"{where}.parameters")
        if schema.get("type", "object") != "object":
            raise _invalid("a function's parameters are an object's schema", f"{where}.parameters")


def _check_choice(request: ChatRequest, tools: Sequence[Tool]) -> None:
    choice = request.tool_choice
    known = {tool.function.name for tool in tools}
    if isinstance(choice, NamedTool):
        if choice.function.name not in known:
            raise _invalid(f"no tool has the name {choice.function.name}", "tool_choice")
    elif isinstance(choice, AllowedTools):
        for number, name in enumerate(choice.names):
            if name not in known:
                where = f"tool_choice.allowed_tools.tools[{number}].function.name"
                raise _invalid(f"no tool has the name {name}", where)
    elif choice in CALLED and not tools:
        raise _invalid(f"tool_choice {choice} needs tools", "tool_choice")
    if tools and (request.num_beams or 1) > 1:
        text = "a prompt with tools is answered without beam search: num_beams is 1"
        raise ProtocolError("unsupported_parameter", text, "num_beams")


class _LastCalls:
    """The calls of the last message that has some.

    Most templates leave the ids of calls out, and the model takes the results in the order of the
    calls. So one result of two would stand for the other call.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}  # those without a result, and where they are
        self._answered = False  # one of them has a result

    def begin(self, calls: dict[str, str]) -> None:
        self.waiting, self._answered = calls, False

    def answer(self, call: str) -> None:
        del self.waiting[call]
        self._answered = True

    def check_whole(self) -> None:
        """Check that all calls have a result if one has; raises ProtocolError."""
        if self._answered and self.waiting:
            call, where = next(iter(self.waiting.items()))
            text = f"the call {call!r} has no result beside that of another call of its message"
            raise _invalid(f"{text}: send one for each, one behind the other", where)


def _check_message(message: ChatMessage, where: str, last: _LastCalls) -> None:
    calls = message.tool_calls or []
    if calls and message.role != "assistant":
        raise _invalid(
            f"a message of the role {message.role} calls no tools", f"{where}.tool_calls"
        )
    if message.content is None and not calls:
        raise _invalid("a message without tool calls has a content", f"{where}.content")
    if message.role == "tool":
        if message.tool_call_id is None:
            raise _invalid(
                "a tool's message names the call that it answers", f"{where}.tool_call_id"
            )
        if message.tool_call_id not in last.waiting:
            text = "no call of the last message with calls, without a result, has the id "
            raise _invalid(f"{text}{message.tool_call_id!r}", f"{where}.tool_call_id")
        last.answer(message.tool_call_id)
    elif message.tool_call_id is not None:
        raise _invalid("only a tool's message answers a call", f"{where}.tool_call_id")
    ids: dict[str, str] = {}
    for number, call in enumerate(calls):
        place = f"{where}.tool_calls[{number}]"
        if call.id in ids:
            raise _invalid(f"two calls have the id {call.id!r}", f"{place}.id")
        ids[call.id] = place
        arguments_of(call.function.arguments, f"{place}.function.arguments")
    if ids:
        last.begin(ids)


def arguments_of(text: str, where: str = "") -> dict[str, Any]:
    """Return the arguments of a call.

    Raises:
        ProtocolError: they are no JSON object, have a key twice, or are too deep.
    """
    try:
        found = msgspec.json.decode(text)
    except UNREADABLE as error:
        raise _invalid(f"the arguments are not JSON: {error}", where) from None
    try:
        check_keys(text.encode())
    except UNREADABLE as error:
        raise _invalid(f"of the arguments {error}", where) from None
    if not isinstance(found, dict):
        raise _invalid("the arguments are a JSON object, as text", where)
    if _deeper(found, MAX_DEPTH):
        raise _invalid(f"the arguments are deeper than {MAX_DEPTH} levels", where)
    return found


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie more than so many levels inside each other."""
    inner: Iterable[Any] = (value,)
    for _ in range(levels + 1):
        found = [each for each in inner if isinstance(each, (dict, list))]
        if not found:
            return False
        inner = [each for one in found for each in (one.values() if isinstance(one, dict) else one)]
    return True


def _invalid(text: str, param: str) -> ProtocolError:
    return ProtocolError("invalid_request", text, param)
