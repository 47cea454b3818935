"""Ollama's messages as OpenAI's, and calls of tools in both directions. Pure.

Ollama's messages need not say which call a result belongs to. Then it is the first one without a
result of the last message with calls, among those of `tool_name` where that is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys
from edgekit.gateway.refusals import HttpError, of_code

# By the first characters of their base64; a device takes these two
_KINDS = {"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png"}


class OllamaFunction(msgspec.Struct, frozen=True):
    """The function that is called; `arguments` is an object, where OpenAI has its text."""

    name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


class OllamaCall(msgspec.Struct, frozen=True):
    """A call of a tool; older clients send it back without its `id`."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation; `images` are base64."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


def openai(messages: Iterable[OllamaMessage]) -> list[dict[str, Any]]:
    """The messages as OpenAI has them.

    Raises:
        HttpError: a picture is of another kind, or a tool's result belongs to no call.
    """
    made: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # ids and names of the last calls without a result
    count = 0
    for number, message in enumerate(messages):
        told: dict[str, Any] = {"role": message.role, "content": _content(message, number)}
        if message.thinking:
            told["reasoning_content"] = message.thinking
        if message.tool_calls:
            told["content"] = told["content"] or None
            told["tool_calls"] = []
            waiting.clear()  # a result is of the last message with calls
            for call in message.tool_calls:
                count += 1
                call_id = call.id or f"call{count:05}"  # 9 letters and digits, as Mistral's has
                waiting.append((call_id, call.function.name))
                told["tool_calls"].append(_call(call_id, call.function))
        if message.role == "tool":
            found = _answered(message, waiting, number)
            waiting.remove(found)
            told["tool_call_id"] = found[0]
        elif message.tool_call_id:
            told["tool_call_id"] = message.tool_call_id  # a device refuses it by its name
        made.append(told)
    return made


def _content(message: OllamaMessage, number: int) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    parts: list[dict[str, Any]] = []
    for place, image in enumerate(message.images):
        kind = next((kind for start, kind in _KINDS.items() if image.startswith(start)), None)
        if kind is None:
            where = f"messages[{number}].images[{place}]"
            raise of_code("invalid_request", f"{where} is no base64 of a JPEG or a PNG", where)
        parts.append({"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image}"}})
    return [*parts, {"type": "text", "text": text}] if text else parts


def _call(call_id: str, function: OllamaFunction) -> dict[str, Any]:
    arguments = msgspec.json.encode(function.arguments).decode()
    told = {"name": function.name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": told}


def _answered(
    message: OllamaMessage, waiting: list[tuple[str, str]], number: int
) -> tuple[str, str]:
    for call_id, name in waiting:
        if message.tool_call_id in (None, "", call_id) and message.tool_name in (None, "", name):
            return call_id, name
    raise of_code(
        "invalid_request",
        f"messages[{number}] is a tool's result, and no call before it waits for one",
        f"messages[{number}]",
    )


def calls(answered: Iterable[dict[str, Any]], *, is_cut: bool) -> list[dict[str, Any]]:
    """The calls of an answer as Ollama has them, with their arguments as objects.

    Args:
        answered: `tool_calls` of a device's message.
        is_cut: whether the answer ended at its limit; a call that was cut is left out then.

    Raises:
        HttpError: a call has arguments that are no JSON object, or have a key twice: this API
            cannot say them.
    """
    made = []
    for index, call in enumerate(answered):
        name, text = call["function"]["name"], call["function"]["arguments"]
        try:
            arguments = msgspec.json.decode(text, type=dict[str, Any])
        except UNREADABLE:
            if is_cut:
                continue
            raise _unsayable(name, "that are no JSON object") from None
        try:
            check_keys(text.encode())
        except UNREADABLE as error:  # an object would have one of the two values
            raise _unsayable(name, f"of which {error}") from None
        told = {"index": index, "name": name, "arguments": arguments}
        made.append({"id": call["id"], "function": told})
    return made


def _unsayable(name: str, why: str) -> HttpError:
    return HttpError(502, "internal", f"the model called {name} with arguments {why}")
