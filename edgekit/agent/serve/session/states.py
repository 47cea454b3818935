"""The life of one prompt, and the delivery of its outcome, each as a table.

The session moves prompts by these tables, and docs/protocol prints them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """The state of a prompt; the last four are final."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class PromptStep(StrEnum):
    """An event that changes the state of a prompt."""

    TAKEN = "taken"
    STARTED = "started"
    REQUEUED = "worker or agent died"
    FINISHED = "answered"
    REFUSED = "refused by the worker or a new release"
    CRASHED = "worker died on it too often"
    HANDED_BACK = "device stops"
    CANCELLED = "cancelled"
    EXPIRED = "time ran out"


TRANSITIONS: dict[tuple[State | None, PromptStep], State] = {
    (None, PromptStep.TAKEN): State.ACCEPTED,
    (State.ACCEPTED, PromptStep.STARTED): State.RUNNING,
    (State.ACCEPTED, PromptStep.CANCELLED): State.CANCELLED,
    (State.ACCEPTED, PromptStep.EXPIRED): State.EXPIRED,
    (State.ACCEPTED, PromptStep.REFUSED): State.FAILED,
    (State.ACCEPTED, PromptStep.CRASHED): State.FAILED,
    (State.ACCEPTED, PromptStep.HANDED_BACK): State.FAILED,
    (State.RUNNING, PromptStep.FINISHED): State.DONE,
    (State.RUNNING, PromptStep.REQUEUED): State.ACCEPTED,
    (State.RUNNING, PromptStep.CANCELLED): State.CANCELLED,
    (State.RUNNING, PromptStep.EXPIRED): State.EXPIRED,
    (State.RUNNING, PromptStep.REFUSED): State.FAILED,
    (State.RUNNING, PromptStep.HANDED_BACK): State.FAILED,
}


class Delivery(StrEnum):
    """Whether the broker has the outcome of a prompt. A prompt without an outcome is UNSENT."""

    UNSENT = "unsent"
    IN_FLIGHT = "in flight"
    REFUSED = "refused"
    SENT = "sent"


class DeliveryStep(StrEnum):
    """An event that changes the delivery of an outcome to the broker."""

    PUBLISHED = "published"
    ACKNOWLEDGED = "acknowledged by the broker"
    REFUSED = "refused by the broker"
    LOST = "the connection or the commit failed"
    READDRESSED = "the prompt came again from another address"
    WITHHELD = "the prompt expired before it started: no requester waits"


# A pair that is missing here changes nothing. A `query` may have an outcome published in any
# state of its delivery, and the broker acknowledges or refuses that one as well.
DELIVERIES: dict[tuple[Delivery, DeliveryStep], Delivery] = {
    (Delivery.UNSENT, DeliveryStep.PUBLISHED): Delivery.IN_FLIGHT,
    (Delivery.UNSENT, DeliveryStep.ACKNOWLEDGED): Delivery.SENT,
    (Delivery.UNSENT, DeliveryStep.REFUSED): Delivery.REFUSED,
    (Delivery.UNSENT, DeliveryStep.WITHHELD): Delivery.SENT,
    (Delivery.IN_FLIGHT, DeliveryStep.ACKNOWLEDGED): Delivery.SENT,
    (Delivery.IN_FLIGHT, DeliveryStep.REFUSED): Delivery.REFUSED,
    (Delivery.IN_FLIGHT, DeliveryStep.LOST): Delivery.UNSENT,
    (Delivery.IN_FLIGHT, DeliveryStep.READDRESSED): Delivery.UNSENT,
    (Delivery.REFUSED, DeliveryStep.PUBLISHED): Delivery.IN_FLIGHT,
    (Delivery.REFUSED, DeliveryStep.ACKNOWLEDGED): Delivery.SENT,
    (Delivery.REFUSED, DeliveryStep.READDRESSED): Delivery.UNSENT,
    (Delivery.SENT, DeliveryStep.READDRESSED): Delivery.UNSENT,
}


def move(state: State | None, step: PromptStep) -> State:
    """Return the state after a step.

    Raises:
        KeyError: the table has no such step; the caller has a defect.
    """
    return TRANSITIONS[state, step]


def deliver(delivery: Delivery, step: DeliveryStep) -> Delivery:
    """Return the delivery after a step; the same one where the table has no such pair."""
    return DELIVERIES.get((delivery, step), delivery)


def table() -> str:
    """Format `TRANSITIONS` as Markdown, for docs/protocol."""
    return _markdown((*key, to) for key, to in TRANSITIONS.items())


def delivery_table() -> str:
    """Format `DELIVERIES` as Markdown, for docs/protocol."""
    return _markdown((*key, to) for key, to in DELIVERIES.items())


def _markdown(rows: Iterable[tuple[StrEnum | None, StrEnum, StrEnum]]) -> str:
    lines = ["| from | what happens | to |", "|---|---|---|"]
    lines += [f"| {state or '(new)'} | {step} | {to} |" for state, step, to in rows]
    return "\n".join(lines)
