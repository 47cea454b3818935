"""Tool calls as OpenAI's API writes them: whole in a message, in pieces in a stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from edgekit.core.chat.text import Text


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function's name, and its arguments as the text of a JSON object."""

    name: Text
    arguments: Text


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a tool; the message with its result repeats `id`."""

    id: Text
    type: Literal["function"]
    function: CalledFunction


class FunctionDelta(msgspec.Struct, frozen=True):
    """A piece of a call: the first one has the name, each may have text of the arguments."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of the call number `index`; the first one has `id` and `type`."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


def joined(deltas: Iterable[ToolCallDelta]) -> list[ToolCall]:
    """Return the calls that the deltas of an answer add up to."""
    names: dict[int, tuple[str, str]] = {}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        if delta.id is not UNSET:
            names[delta.index] = delta.id, delta.function.name or ""
        arguments.setdefault(delta.index, []).append(delta.function.arguments or "")
    return [
        ToolCall(call, "function", CalledFunction(name, "".join(arguments[index])))
        for index, (call, name) in names.items()
    ]
