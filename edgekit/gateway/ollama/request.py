"""The body of Ollama's `/api/chat` as a request for a device. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.gateway import body
from edgekit.gateway.ollama import messages, options
from edgekit.gateway.refusals import of_code

_LATEST = ":latest"  # the tag that Ollama's clients may add to a model's name


class OllamaChat(msgspec.Struct, frozen=True):
    """The fields that the gateway serves; `keep_alive` has no effect, as a device keeps its model.

    Reference: Ollama's docs/api.md, "Generate a chat completion".
    """

    model: str
    messages: list[messages.OllamaMessage]
    stream: bool | None = None
    format: Any = None
    options: dict[str, msgspec.Raw] | None = None
    think: bool | str | None = None
    tools: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    keep_alive: float | str | None = None


def read(data: bytes) -> body.ApiRequest:
    """Read a body; the device checks what the gateway does not look at.

    Raises:
        HttpError: it cannot be read, or has what is not served; names the field.
    """
    given, told = body.decode(data, OllamaChat)
    for name, raw in given.items():
        if name not in OllamaChat.__struct_fields__ and bytes(raw) != b"null":
            raise of_code("unsupported_parameter", f"{name} is not served", name)
    if not told.messages:
        raise of_code("invalid_request", "messages is missing or empty", "messages")
    turns = messages.openai(told.messages)
    fields = options.fields(told.options or {})
    fields |= {
        name: given[name]
        for name in ("tools", "logprobs", "top_logprobs")
        if name in given and bytes(given[name]) not in (b"null", b"[]")
    }
    said = {"messages": turns, **_format(told.format), **_think(told.think)}
    fields |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in said.items()}
    model = told.model
    if model not in ("pool" + _LATEST, "device" + _LATEST):
        model = model.removesuffix(_LATEST)
    return body.ApiRequest(
        fields=fields,
        model=model,
        messages=turns,
        stream=told.stream is not False,
        usage=True,
        text=False,
    )


def _format(given: Any) -> dict[str, Any]:
    if given in (None, ""):
        return {}
    if given == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(given, dict):
        form = {"name": "format", "schema": given}
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    raise of_code("invalid_request", 'format is "json" or a JSON Schema', "format")


def _think(given: bool | str | None) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, str):
        return {"reasoning_effort": given}
    return {"reasoning_effort": "medium" if given else "none"}
