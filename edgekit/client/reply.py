"""The replies of a device as the requester yields them, read from their messages."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from edgekit.core import wire
from edgekit.errors import EdgekitError


class Accepted(msgspec.Struct, frozen=True):
    """The device has the prompt; `position` prompts come first, it starts in about `eta_ms`."""

    device: str
    position: int
    eta_ms: int | None = None


class Delta(msgspec.Struct, frozen=True):
    """The next piece of text."""

    seq: int
    text: str


class Final(msgspec.Struct, frozen=True):
    """The whole answer: a `chat.completion` object."""

    device: str
    completion: dict[str, Any]

    @property
    def text(self) -> str:
        """The assistant's message."""
        return str(self.completion["choices"][0]["message"]["content"])

    @property
    def finish_reason(self) -> str:
        """stop, length or cancelled."""
        return str(self.completion["choices"][0]["finish_reason"])


Reply = Accepted | Delta | Final


def read_state(message: wire.Inbound) -> str:
    """Read what a device answers to a `query`; empty if it cannot be read."""
    with suppress(*wire.UNREADABLE, KeyError, TypeError):
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
            return Delta(body["seq"], body["choices"][0]["delta"]["content"])
        final = Final(device, body)
        _ = final.text, final.finish_reason
    except (*wire.UNREADABLE, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EdgekitError(f"{device}'s reply cannot be read", repr(error)) from error
    return final
