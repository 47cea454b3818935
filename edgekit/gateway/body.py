"""The bodies of HTTP requests: what the gateway reads of them, and what a device gets. Pure.

A device gets the body as it came, with three exceptions: `model` becomes the device's own, for a
prompt may have named a pool; `stream` is said, because a device streams unless told not to; and
`prompt` of a text completion becomes a message.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edgekit.core.chat.capabilities import GRAMMARS, IMAGES
from edgekit.core.protocol import wire
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys
from edgekit.gateway.refusals import HttpError, of_code

Read = TypeVar("Read", bound=msgspec.Struct)
MOST_DIGITS = 6  # of a deadline; `int` refuses thousands
# What a text completion has and a chat has not, with the values that change nothing
_TEXT_ONLY: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
    "logprobs": (None,),
}
# What a chat has and a text completion has not: its answer is a text, and a call would be lost
_CHAT_ONLY: dict[str, tuple[Any, ...]] = {"messages": (), "tools": (None, [])}


class ApiRequest(msgspec.Struct, frozen=True):
    """A request that was read.

    Attributes:
        fields: of the body, each as it came.
        messages: the conversation.
        stream: whether deltas are asked for.
        usage: whether a stream ends with the token counts.
        text: whether it is a text completion, whose answer has another shape.
    """

    fields: dict[str, msgspec.Raw]
    model: str
    messages: list[Any]
    stream: bool
    usage: bool
    text: bool

    @property
    def needs(self) -> frozenset[str]:
        """The capabilities without which no device can answer it."""
        found = {name for name in GRAMMARS if _is_said(self.fields, name)}
        if _is_said(self.fields, "response_format"):
            kind = value(self.fields, "response_format")
            if isinstance(kind, dict) and kind.get("type") in ("json_object", "json_schema"):
                found.add("json_schema")
        if any(_has_picture(message) for message in self.messages):
            found.add(IMAGES)
        return frozenset(found)

    def payload(self, model: str) -> bytes:
        """The body for a device that serves this model."""
        told = {"model": model, "stream": self.stream}
        return msgspec.json.encode({**self.fields, **told})


class _Options(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Read(msgspec.Struct, frozen=True):
    model: str
    messages: list[Any] | None = None
    prompt: Any = None
    stream: bool | None = None
    stream_options: _Options | None = None


def read(body: bytes, *, text: bool = False) -> ApiRequest:
    """Read a body; the device checks what the gateway does not look at.

    Args:
        body: of the request.
        text: whether it is that of `/v1/completions`.

    Raises:
        HttpError: it is no JSON, has a key twice, or a field that the gateway reads is wrong.
    """
    fields, told = decode(body, _Read)
    messages = told.messages
    if text:
        messages = [{"role": "user", "content": _prompt(fields, told.prompt)}]
        fields = {key: raw for key, raw in fields.items() if key not in (*_TEXT_ONLY, "prompt")}
        fields["messages"] = msgspec.Raw(msgspec.json.encode(messages))
    if not messages:
        raise of_code("invalid_request", "messages is missing or empty", "messages")
    options = told.stream_options
    return ApiRequest(
        fields=fields,
        model=told.model,
        messages=messages,
        stream=bool(told.stream),
        usage=bool(options and options.include_usage),
        text=text,
    )


def _is_said(fields: dict[str, msgspec.Raw], name: str) -> bool:
    return name in fields and bytes(fields[name]) != b"null"


def _has_picture(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def decode(body: bytes, kind: type[Read]) -> tuple[dict[str, msgspec.Raw], Read]:
    """A body's fields, each as it came, and those that the gateway reads as a struct.

    Raises:
        HttpError: it is no JSON, has a key twice, or a field that the gateway reads is wrong.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        told = msgspec.json.decode(body, type=kind)
        check_keys(body)
    except UNREADABLE as error:
        raise of_code("invalid_request", f"the body cannot be read: {error}") from error
    except RecursionError as error:
        raise of_code("invalid_request", "the body is nested too deeply") from error
    return fields, told


def value(fields: dict[str, msgspec.Raw], name: str, param: str = "") -> Any:
    """The value of a field; `param` names it in errors. Raises HttpError.

    A number that no float can be, such as 1e400, is one by the grammar of JSON alone.
    """
    try:
        return msgspec.json.decode(fields[name])
    except UNREADABLE as error:
        shown = param or name
        raise of_code("invalid_request", f"{shown} cannot be read: {error}", shown) from error


def _prompt(fields: dict[str, msgspec.Raw], prompt: Any) -> str:
    for name, harmless in _TEXT_ONLY.items():
        if name in fields and value(fields, name) not in harmless:
            raise of_code(
                "unsupported_parameter",
                f"{name} is not served: devices serve chats, and a prompt becomes a user's message",
                name,
            )
    for name, harmless in _CHAT_ONLY.items():
        if name in fields and value(fields, name) not in harmless:
            raise of_code("unsupported_parameter", f"a text completion has no {name}", name)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise of_code("invalid_request", "prompt must be one text that is not empty", "prompt")
    return prompt


def read_id(given: str) -> str:
    """The `ek-id` that an Idempotency-Key names; raises HttpError."""
    if not 1 <= len(given) <= wire.MAX_ID_CHARS or not given.isprintable() or not given.isascii():
        raise HttpError(
            400,
            "invalid_request",
            f"Idempotency-Key must be 1 to {wire.MAX_ID_CHARS} printable characters of ASCII",
        )
    return given


def read_deadline(given: str, most: int) -> int:
    """The deadline that a request asks for, in seconds; raises HttpError."""
    is_short = given.isascii() and given.isdigit() and len(given) <= MOST_DIGITS
    if not is_short or not 1 <= int(given) <= most:
        raise HttpError(400, "invalid_request", f"Edgekit-Deadline is 1 to {most} whole seconds")
    return int(given)
