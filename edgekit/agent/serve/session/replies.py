"""The messages of a session, from values."""

from __future__ import annotations

from typing import cast

import msgspec

from edgekit.agent.serve.session.events import Publish
from edgekit.agent.serve.session.prompt import Job, Outcome
from edgekit.core import payloads, topics, wire
from edgekit.core.envelope import reply_message


def reply(job: Job, kind: str, payload: bytes, now: float, *, status: int = 200) -> Publish:
    """A reply to a prompt, with the time that is left to it."""
    message = reply_message(
        job.reply,
        kind,
        payload,
        seq=job.seq,
        expiry_seconds=int(job.deadline - now),
        status=status,
    )
    return Publish(message, job.key, kind)


def accepted(job: Job, position: int, eta_ms: int | None, now: float) -> Publish:
    """So many prompts come first; it starts in about so many milliseconds."""
    body = payloads.Accepted(position, eta_ms)
    return reply(job, "accepted", msgspec.json.encode(body), now)


def delta(job: Job, text: str, now: float) -> Publish:
    """The next piece of text."""
    choice = payloads.DeltaChoice(0, payloads.DeltaContent(text))
    body = payloads.Delta(job.seq, (choice,))
    return reply(job, "delta", msgspec.json.encode(body), now)


def outcome(job: Job, to: wire.Reply, expiry_seconds: int) -> Publish:
    """How a prompt ended, as it was stored."""
    ended = job.outcome
    assert ended is not None
    message = reply_message(
        to,
        ended.kind,
        ended.payload,
        seq=job.seq,
        expiry_seconds=expiry_seconds,
        status=ended.status,
    )
    return Publish(message, job.key, ended.kind)


def error_outcome(error: wire.ProtocolError) -> Outcome:
    """An error as a prompt's end."""
    return Outcome("error", error.code, error.status, error.encode())


def refusal(to: wire.Reply, error: wire.ProtocolError, expiry_seconds: int) -> Publish:
    """The answer to a prompt that was not taken; nothing is stored of it."""
    return Publish(
        reply_message(
            to, "error", error.encode(), seq=0, expiry_seconds=expiry_seconds, status=error.status
        )
    )


def state(to: wire.Reply, name: str, position: int | None, expiry_seconds: int) -> Publish:
    """The answer to a `query`: accepted or running, or `unknown`."""
    body = payloads.State(cast(payloads.PromptState, name), position)
    payload = msgspec.json.encode(body)
    return Publish(reply_message(to, "state", payload, seq=0, expiry_seconds=expiry_seconds))


def status_message(device: str, status: wire.Status) -> wire.Outbound:
    """The retained status; with state `lost` it is the Will."""
    return wire.Outbound(topics.status_topic(device), msgspec.json.encode(status), retain=True)
