"""The replies of a device as the requester yields them, read from their messages."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any

import msgspec

from edgekit.core.chat.calls import ToolCall
from edgekit.core.chat.completion import Usage
from edgekit.core.chat.logprobs import TokenLogprob
from edgekit.core.config import NAME
from edgekit.core.protocol import wire
from edgekit.core.protocol.payloads import AcceptedPayload
from edgekit.core.reading import UNREADABLE
from edgekit.errors import EdgekitError


class Accepted(msgspec.Struct, frozen=True):
    """The device has the prompt; `position` prompts come first, it starts in about `eta_ms`."""

    device: str
    position: int
    eta_ms: int | None = None


class Delta(msgspec.Struct, frozen=True):
    """The next piece of the answer: of its text, or of the model's thinking.

    `chunk` is the piece as OpenAI's SDKs take it, a `chat.completion.chunk` object. The device
    sends `choices` alone: `created` is this machine's time, and `model` is empty.
    """

    seq: int
    text: str
    reasoning: str = ""
    chunk: dict[str, Any] = {}


class Final(msgspec.Struct, frozen=True):
    """The whole answer: a `chat.completion` object."""

    device: str
    completion: dict[str, Any]

    @property
    def text(self) -> str:
        """The assistant's message; empty where it is nothing but tool calls."""
        return str(self.message["content"] or "")

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, where it says that apart."""
        return str(self.message.get("reasoning_content") or "")

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tools that the model calls; a caller runs them and sends the results back."""
        return msgspec.convert(self.message.get("tool_calls") or [], list[ToolCall])

    @property
    def logprobs(self) -> list[dict[str, Any]]:
        """The tokens with their log-probabilities, where they were asked for."""
        content: list[dict[str, Any]] = (self._choice.get("logprobs") or {}).get("content") or []
        return content

    @property
    def finish_reason(self) -> str:
        """stop, length, tool_calls or cancelled."""
        return str(self._choice["finish_reason"])

    @property
    def _choice(self) -> dict[str, Any]:
        choice: dict[str, Any] = self.completion["choices"][0]
        return choice

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message as the next prompt's `messages` take it back."""
        message: dict[str, Any] = self._choice["message"]
        return message


Reply = Accepted | Delta | Final


class _Timings(msgspec.Struct, frozen=True):
    first_token_ms: float = 0.0
    predicted_per_second: float = 0.0


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprob] | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str
    logprobs: _Logprobs | None = None


class _Whole(msgspec.Struct, frozen=True):
    """What is read of a final; a later agent may say more."""

    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: Usage
    timings: _Timings | None = None


class _Text(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Piece(msgspec.Struct, frozen=True):
    delta: _Text


class _Part(msgspec.Struct, frozen=True):
    """The same of a delta."""

    seq: int
    choices: Annotated[list[_Piece], msgspec.Meta(min_length=1)]


def sender(message: wire.Inbound) -> str:
    """The device that a reply names as its sender; empty where that is no device's name."""
    name = message.property("ek-dev")
    return name if NAME.match(name) else ""


def read_state(message: wire.Inbound) -> str:
    """Read what a device answers to a `query`; empty if it cannot be read."""
    with suppress(*UNREADABLE, KeyError, TypeError):
        return str(msgspec.json.decode(message.payload)["state"])
    return ""


def read_reply(message: wire.Inbound) -> Reply:
    """Read a reply.

    Raises:
        ProtocolError: it is an `error`.
        EdgekitError: it cannot be read.
    """
    kind = message.property("ek-kind")
    device = sender(message)
    if kind == "error":
        raise wire.ProtocolError.decode(message.payload)
    try:
        if kind == "accepted":
            accepted = msgspec.json.decode(message.payload, type=AcceptedPayload)
            return Accepted(device, accepted.position, accepted.eta_ms)
        body = msgspec.json.decode(message.payload, type=dict[str, Any])
        if kind == "delta":
            return _delta(message.property("ek-id"), msgspec.convert(body, _Part), body)
        msgspec.convert(body, _Whole)
    except UNREADABLE as error:
        what = f"a reply of {device or 'the device'} cannot be read"
        raise EdgekitError(what, str(error)) from error
    return Final(device, body)


def _delta(prompt_id: str, part: _Part, body: dict[str, Any]) -> Delta:
    piece = part.choices[0].delta
    chunk = {
        "id": f"chatcmpl-{prompt_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "",
        "choices": body["choices"],
    }
    return Delta(part.seq, piece.content or "", piece.reasoning_content or "", chunk)
