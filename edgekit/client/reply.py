"""The replies of a device as the requester yields them, read from their messages."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec

from edgekit.core.chat.calls import ToolCall
from edgekit.core.protocol import wire
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
    device = message.property("ek-dev")
    if kind == "error":
        raise wire.ProtocolError.decode(message.payload)
    try:
        body = msgspec.json.decode(message.payload)
        if kind == "accepted":
            return Accepted(device, body["position"], body.get("eta_ms"))
        if kind == "delta":
            return _delta(message.property("ek-id"), body)
        final = Final(device, body)
        _ = final.text, final.finish_reason, final.reasoning, final.logprobs, final.tool_calls
    except (*UNREADABLE, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EdgekitError(f"{device}'s reply cannot be read", repr(error)) from error
    return final


def _delta(prompt_id: str, body: dict[str, Any]) -> Delta:
    piece = body["choices"][0]["delta"]
    chunk = {
        "id": f"chatcmpl-{prompt_id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "",
        "choices": body["choices"],
    }
    return Delta(
        body["seq"], piece.get("content") or "", piece.get("reasoning_content") or "", chunk
    )
