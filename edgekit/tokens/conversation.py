"""A conversation as a chat template gets it, and every text in it that a requester wrote. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.tokens.template import NOTHING, Message, Value

Turn = tuple[str, str | Sequence[str | bytes]] | Message  # (role, content), or more fields

# Names of a message, a call and a tool: never a requester's text
_FIELDS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content"),
        *("id", "type", "function", "arguments", "description", "parameters", "strict"),
    }
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the tools that the model may call, and further variables of the template.

    Attributes:
        place: stands for a picture in the rendered text, where the template writes its place.
    """

    messages: Sequence[Message]
    tools: Sequence[Value]
    options: Value
    place: str = ""

    @property
    def texts(self) -> list[str]:
        """Every text that a requester wrote: values and names, wherever they stand."""
        return list(_texts([*map(_unroled, self.messages), *self.tools, *self.options.values()]))

    def changed(self, change: Callable[[str], str]) -> Conversation:
        """Return the conversation with each of these texts changed."""
        return Conversation(
            # a template may go through a message's fields: they keep their order
            [{**message, **_changed(_unroled(message), change)} for message in self.messages],
            [_changed(tool, change) for tool in self.tools],
            {name: _changed(value, change) for name, value in self.options.items()},
            self.place,
        )


def conversation(
    turns: Sequence[Turn],
    tools: Sequence[Value] = (),
    options: Value = NOTHING,
) -> Conversation:
    """Return a conversation; developer messages go in as system messages.

    Args:
        turns: (role, content) of each message, or the message with all its fields.
        tools: those that the model may call.
        options: further variables of the template.
    """
    pairs = (
        {"role": turn[0], "content": turn[1]} if isinstance(turn, tuple) else turn for turn in turns
    )
    messages = [
        {**each, "role": "system"} if each["role"] == "developer" else each for each in pairs
    ]
    return Conversation(messages, tools, options)


def with_places(chat: Conversation, place: str) -> tuple[Conversation, int]:
    """Return the conversation with a text in the place of each picture, and their number."""
    count = 0
    messages = []
    for message in chat.messages:
        parts = message["content"]
        if not isinstance(parts, list):
            messages.append(message)
            continue
        count += sum(isinstance(part, bytes) for part in parts)
        joined = "".join(part if isinstance(part, str) else place for part in parts)
        messages.append({**message, "content": joined})
    return Conversation(messages, chat.tools, chat.options), count


def _unroled(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "role"}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (name for name in value if name not in _FIELDS)
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for each in value:
            yield from _texts(each)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            name if name in _FIELDS else change(name): _changed(each, change)
            for name, each in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_changed(each, change) for each in value]
    return value
