"""Reads the body of a prompt.

A picture's base64 text is decoded while the body is read, and is kept nowhere but in the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

import msgspec

from edgekit.core import pictures
from edgekit.core.chat import harmless
from edgekit.core.chat.calls import CalledFunction, ToolCall
from edgekit.core.chat.constraint.formats import FORMATS, JsonSchema, TextFormat
from edgekit.core.chat.parts import PARTS, ImageUrl, TextPart
from edgekit.core.chat.request import ChatMessage, ChatRequest
from edgekit.core.chat.tools.check import arguments_of, check_tools
from edgekit.core.chat.tools.forcing import check_forced
from edgekit.core.chat.tools.request import Function, Tool
from edgekit.core.protocol import cbor
from edgekit.core.protocol.wire import ProtocolError
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys

_AT = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")
# What MessagePack carries to the model's process
_LEAST, _MOST = -(2**63), 2**64 - 1


def parse_body(payload: bytes, encoding: str = "") -> ChatRequest:
    """Read a chat-completions body.

    Args:
        payload: the prompt's bytes.
        encoding: "cbor"; any other value means JSON.

    Raises:
        ProtocolError: `invalid_request` or `unsupported_parameter`, with the field in `param`.
    """
    try:
        request = _decode(payload, encoding)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except UNREADABLE as error:
        language = "CBOR" if encoding == "cbor" else "JSON"
        raise ProtocolError("invalid_request", f"the body is not {language}: {error}") from None
    if encoding != "cbor":  # CBOR with a repeated key was not read
        try:
            check_keys(payload)
        except UNREADABLE as error:
            raise ProtocolError("invalid_request", str(error)) from None
    if 0 in (request.logit_bias or ()):
        _check_zero(payload, encoding)
    harmless.check(request, harmless.REQUEST)
    for number, message in enumerate(request.messages):
        harmless.check(message, harmless.MESSAGE, f"messages[{number}].")
        if message.reasoning_content is not None and message.role != "assistant":
            text = f"a message of the role {message.role} has thinking; only an assistant's may"
            where = f"messages[{number}].reasoning_content"
            raise ProtocolError("invalid_request", text, where)
        if message.picture_count and message.role != "user":
            where = f"messages[{number}].content[{message.picture_parts[0]}]"
            text = f"a message of the role {message.role} has a picture; only a user's may"
            raise ProtocolError("invalid_request", text, where)
    for where, value in _free_values(request):
        _check_json(value, where)
    check_tools(request)
    if request.picture_count and (request.num_beams or 1) > 1:
        text = "a prompt with pictures is answered without beam search: num_beams is 1"
        raise ProtocolError("unsupported_parameter", text, "num_beams")
    _check_logprobs(request)
    check_forced(request)
    return request


def _free_values(request: ChatRequest) -> Iterator[tuple[str, object]]:
    """Yield the fields that may hold any JSON and go to the model's process, by their names.

    Raises:
        ProtocolError: the arguments of a call are no JSON object.
    """
    for name, value in (request.chat_template_kwargs or {}).items():
        yield f"chat_template_kwargs.{name}", value
    for number, tool in enumerate(request.tools or ()):
        yield f"tools[{number}].function.parameters", tool.function.parameters
    for number, message in enumerate(request.messages):
        for place, call in enumerate(message.tool_calls or ()):
            where = f"messages[{number}].tool_calls[{place}].function.arguments"
            yield where, arguments_of(call.function.arguments, where)


def _check_zero(payload: bytes, encoding: str) -> None:
    """Refuse token 0 under its second name: msgspec reads "-0" as 0, and no other such spelling."""
    body: Any = cbor.decode(payload) if encoding == "cbor" else msgspec.json.decode(payload)
    if "-0" in body["logit_bias"]:
        raise ProtocolError("invalid_request", "token 0 is written 0, not -0", "logit_bias")


def _check_json(value: object, where: str) -> None:
    """Check that a value is JSON, which CBOR goes beyond, with integers of 64 bits."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, float) and not isfinite(one):
            raise ProtocolError("invalid_request", f"{one} is no number of JSON", where)
        elif isinstance(one, int) and not _LEAST <= one <= _MOST:
            raise ProtocolError("invalid_request", "an integer does not fit in 64 bits", where)
        elif one is not None and not isinstance(one, str | int | float):
            text = f"JSON has no value of the kind {type(one).__name__}"
            raise ProtocolError("invalid_request", text, where)


def _check_logprobs(request: ChatRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        text = "top_logprobs is served where logprobs is true"
        raise ProtocolError("invalid_request", text, "top_logprobs")
    if request.logprobs and (request.num_beams or 1) > 1:
        text = "log-probabilities are served without beam search: num_beams is 1"
        raise ProtocolError("unsupported_parameter", text, "logprobs")


def _decode(payload: bytes, encoding: str) -> ChatRequest:
    """Read the body; a field that no version of it has may be null, which says nothing.

    Raises:
        ValidationError: it is no `ChatRequest`.
        ValueError: it cannot be read at all.
    """
    if encoding == "cbor":
        read = cbor.decode(payload)
        return _converted(read)
    try:
        return msgspec.json.decode(payload, type=ChatRequest, dec_hook=pictures.decode)
    except msgspec.ValidationError as error:
        if not _UNKNOWN.search(str(error)):
            raise
    return _converted(msgspec.json.decode(payload))


def _converted(body: object) -> ChatRequest:
    return msgspec.convert(
        _without_nulls(body), ChatRequest, str_keys=True, dec_hook=pictures.decode
    )


def _without_nulls(body: object) -> object:
    """Leave out unknown null fields of the body, its messages and their parts."""
    if isinstance(body, dict):
        body = _without_unknown_nulls(body, ChatRequest)
        if isinstance(body.get("messages"), list):
            body["messages"] = [_message_without_nulls(each) for each in body["messages"]]
        if isinstance(body.get("tools"), list):
            body["tools"] = [_tool_without_nulls(each) for each in body["tools"]]
        if isinstance(body.get("response_format"), dict):
            body["response_format"] = _format_without_nulls(body["response_format"])
    return body


def _format_without_nulls(form: dict[Any, Any]) -> dict[Any, Any]:
    if not isinstance(kind := form.get("type"), str):
        return form
    form = _without_unknown_nulls(form, FORMATS.get(kind, TextFormat))
    if isinstance(form.get("json_schema"), dict):
        form["json_schema"] = _without_unknown_nulls(form["json_schema"], JsonSchema)
    return form


def _message_without_nulls(message: object) -> object:
    if isinstance(message, dict):
        message = _without_unknown_nulls(message, ChatMessage)
        if isinstance(message.get("content"), list):
            message["content"] = [_part_without_nulls(part) for part in message["content"]]
        if isinstance(message.get("tool_calls"), list):
            message["tool_calls"] = [_call_without_nulls(each) for each in message["tool_calls"]]
    return message


def _call_without_nulls(call: object) -> object:
    if not isinstance(call, dict):
        return call
    call = _without_unknown_nulls(call, ToolCall)
    if isinstance(call.get("function"), dict):
        call["function"] = _without_unknown_nulls(call["function"], CalledFunction)
    return call


def _tool_without_nulls(tool: object) -> object:
    if isinstance(tool, dict):
        tool = _without_unknown_nulls(tool, Tool)
        if isinstance(tool.get("function"), dict):
            tool["function"] = _without_unknown_nulls(tool["function"], Function)
    return tool


def _part_without_nulls(part: object) -> object:
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return part
    part = _without_unknown_nulls(part, PARTS.get(kind, TextPart))
    if isinstance(part.get("image_url"), dict):
        part["image_url"] = _without_unknown_nulls(part["image_url"], ImageUrl)
    return part


def _without_unknown_nulls(fields: dict[Any, Any], kind: type[msgspec.Struct]) -> dict[Any, Any]:
    tag = kind.__struct_config__.tag_field  # content parts have one
    known = {*kind.__struct_encode_fields__, *([tag] if tag else [])}
    return {name: value for name, value in fields.items() if value is not None or name in known}


def _invalid(error: msgspec.ValidationError) -> ProtocolError:
    """Make the error of a body that is no `ChatRequest`, with the field's name."""
    text = str(error)
    at = _AT.search(text)
    unknown = _UNKNOWN.search(text)
    if unknown:
        prefix = f"{at['path']}." if at and at["path"] else ""
        param = prefix + unknown["name"]
        return ProtocolError("unsupported_parameter", f"{param} is not served by this agent", param)
    path = at["path"] if at else ""
    said = _AT.sub("", text)
    if path.endswith(".image_url") and "`str`" in said:
        said = 'image_url is an object with a `url`: {"url": "data:image/jpeg;base64,…"}'
    return ProtocolError("invalid_request", said, path)
