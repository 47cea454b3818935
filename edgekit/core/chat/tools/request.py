"""Tools as a prompt's body describes them: OpenAI's `tools` and `tool_choice`. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgekit.core.chat.text import Text

if TYPE_CHECKING:
    from edgekit.core.chat.request import ChatRequest

MAX_TOOLS = 128  # as OpenAI's API

FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may call.

    `parameters` is the JSON Schema of its arguments; without it there are none. With `strict` the
    arguments always fit it, also where the model is free to call.
    """

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool that the model may call; functions are the only kind."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: FunctionName


class NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def offered(request: ChatRequest) -> list[Tool]:
    """Return the tools that the model may call."""
    return [] if request.tool_choice == "none" else list(request.tools or ())


def forced_tools(request: ChatRequest) -> list[Tool]:
    """Return the tools one of which the answer must call; none where the model is free."""
    tools = offered(request)
    if isinstance(request.tool_choice, NamedTool):
        name = request.tool_choice.function.name
        return [tool for tool in tools if tool.function.name == name]
    return tools if request.tool_choice == "required" else []


def may_repeat(request: ChatRequest) -> bool:
    """Whether the answer may have several calls: a named tool is called once."""
    named = isinstance(request.tool_choice, NamedTool)
    return request.parallel_tool_calls is not False and not named
