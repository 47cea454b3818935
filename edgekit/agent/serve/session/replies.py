"""Makes the MQTT messages that a session sends."""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from edgekit.agent.serve.pipe import Generated
from edgekit.agent.serve.session.events import Publish
from edgekit.agent.serve.session.prompt import Outcome, Prompt
from edgekit.core.chat.logprobs import Logprobs
from edgekit.core.protocol import payloads, topics, wire
from edgekit.core.protocol.envelope import reply_message
from edgekit.core.rules.message import answer_message
from edgekit.mqtt.packet import packet_bytes, publish_properties
from edgekit.mqtt.terms import NO_PACKET_LIMIT


def reply(prompt: Prompt, kind: str, payload: bytes, now: float, *, status: int = 200) -> Publish:
    """Make a reply to a prompt; it expires at the prompt's deadline."""
    message = reply_message(
        prompt.reply,
        kind,
        payload,
        seq=prompt.seq,
        expiry_seconds=int(prompt.deadline - now),
        status=status,
    )
    return Publish(message, prompt.key, kind)


def accepted(prompt: Prompt, position: int, eta_ms: int | None, now: float) -> Publish:
    """Make an `accepted`; `eta_ms` is None while the time until the start is unknown."""
    body = payloads.AcceptedPayload(position, eta_ms)
    return reply(prompt, "accepted", msgspec.json.encode(body), now)


def delta(prompt: Prompt, piece: Generated, now: float) -> Publish:
    """Make a `delta` with the next piece of the answer."""
    content = payloads.DeltaContent(
        piece.text or UNSET, piece.reasoning or UNSET, tuple(piece.calls) or UNSET
    )
    logprobs = Logprobs(piece.logprobs) if piece.logprobs else UNSET
    choice = payloads.DeltaChoice(0, content, logprobs)
    body = payloads.DeltaPayload(prompt.seq, (choice,))
    return reply(prompt, "delta", msgspec.json.encode(body), now)


def outcome(
    prompt: Prompt, to: wire.ReplyTo, expiry_seconds: int, max_packet_bytes: int = NO_PACKET_LIMIT
) -> Publish:
    """Make the `final` or `error` of a prompt that has ended, as it was stored.

    A final that is larger than the broker's largest packet cannot be sent: its requester gets an
    error that says so. The final stays stored, for a `query` at a broker that takes more.
    """
    ended = prompt.outcome
    assert ended is not None
    if prompt.origin is not None:  # its topic has answers alone: one that is too large stays here
        return Publish(
            answer_message(to, prompt.origin, ended.payload, expiry_seconds), prompt.key, ended.kind
        )
    made = _outcome(prompt, to, expiry_seconds, ended)
    size = 0
    if ended.kind == "final" and max_packet_bytes < NO_PACKET_LIMIT:
        size = packet_bytes(made.message, publish_properties(made.message))
    if size <= max_packet_bytes:
        return made
    text = (
        f"the answer is a message of {size} bytes, and the broker takes at most "
        f"{max_packet_bytes} (its max_packet_size); ask for fewer tokens"
    )
    error = wire.ProtocolError("payload_too_large", text, "max_completion_tokens")
    return _outcome(prompt, to, expiry_seconds, error_outcome(error))


def _outcome(prompt: Prompt, to: wire.ReplyTo, expiry_seconds: int, ended: Outcome) -> Publish:
    message = reply_message(
        to,
        ended.kind,
        ended.payload,
        seq=prompt.seq,
        expiry_seconds=expiry_seconds,
        status=ended.status,
    )
    return Publish(message, prompt.key, ended.kind)


def error_outcome(error: wire.ProtocolError) -> Outcome:
    """Make the outcome of a prompt that ends with an error."""
    return Outcome("error", error.code, error.status, error.encode())


def refusal(to: wire.ReplyTo, error: wire.ProtocolError, expiry_seconds: int) -> Publish:
    """Make the `error` for a prompt that the device does not take, and does not store."""
    return Publish(
        reply_message(
            to, "error", error.encode(), seq=0, expiry_seconds=expiry_seconds, status=error.status
        )
    )


def state(to: wire.ReplyTo, name: str, position: int | None, expiry_seconds: int) -> Publish:
    """Make the answer to a `query`: `accepted`, `running` or `unknown`."""
    body = payloads.StatePayload(cast(payloads.PromptState, name), position)
    payload = msgspec.json.encode(body)
    return Publish(reply_message(to, "state", payload, seq=0, expiry_seconds=expiry_seconds))


def status_message(device: str, status: wire.Status) -> wire.Outbound:
    """Make the retained status; with state `lost` it is the Will."""
    return wire.Outbound(topics.status_topic(device), msgspec.json.encode(status), retain=True)
