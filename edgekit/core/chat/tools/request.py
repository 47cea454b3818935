"""Tools as a prompt's body describes them: OpenAI's `tools` and `tool_choice`. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgekit.core.chat.text import Text

if TYPE_CHECKING:
    from edgekit.core.chat.request import ChatRequest

MAX_TOOLS = 128  # as OpenAI's API

# To Python, `$` is also before a newline at the end
FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$(?!\n)")]


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


class NamedTool(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    """A tool by its name: as a choice, the one that must be called."""

    function: NamedFunction


class AllowedSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of a prompt's tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], msgspec.Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedTools(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    """The tools that may be called, out of those that the prompt describes."""

    allowed_tools: AllowedSet

    @property
    def names(self) -> list[str]:
        """The names of the functions."""
        return [tool.function.name for tool in self.allowed_tools.tools]


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


def offered(request: ChatRequest) -> list[Tool]:
    """Return the tools that the model may call, and is told of."""
    choice, tools = request.tool_choice, request.tools or ()
    if isinstance(choice, AllowedTools):
        return [tool for tool in tools if tool.function.name in choice.names]
    return [] if choice == "none" else list(tools)


def forced_tools(request: ChatRequest) -> list[Tool]:
    """Return the tools one of which the answer must call; none where the model is free."""
    tools, choice = offered(request), request.tool_choice
    if isinstance(choice, NamedTool):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    mode = choice.allowed_tools.mode if isinstance(choice, AllowedTools) else choice
    return tools if mode == "required" else []


def may_repeat(request: ChatRequest) -> bool:
    """Whether the answer may have several calls: a named tool is called once."""
    named = isinstance(request.tool_choice, NamedTool)
    return request.parallel_tool_calls is not False and not named
