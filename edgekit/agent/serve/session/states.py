"""The life of one prompt, and the delivery of its outcome, each as a table.

The code moves by these tables and docs/protocol prints them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """Where a prompt is; the last four are its end."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class PromptStep(StrEnum):
    """What happens to a prompt."""

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
    """Whether the broker has the outcome of a prompt; UNSENT too while there is none."""

    UNSENT = "unsent"
    IN_FLIGHT = "in flight"
    REFUSED = "refused"
    SENT = "sent"


class DeliveryStep(StrEnum):
    """What happens to the outcome of a prompt on its way to the broker."""

    PUBLISHED = "published"
    ACKNOWLEDGED = "acknowledged by the broker"
    REFUSED = "refused by the broker"
    LOST = "its connection or its commit failed"
    READDRESSED = "the prompt came again from another address"
    WITHHELD = "the prompt expired before it started: nobody waits"


# What is not here changes nothing: an outcome that a `query` asked for is published, acknowledged
# or refused as well, whatever has become of the delivery.
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
    """The state after a step.

    Raises:
        KeyError: the table has no such step, which is a defect of the caller.
    """
    return TRANSITIONS[state, step]


def deliver(delivery: Delivery, step: DeliveryStep) -> Delivery:
    """The delivery after a step."""
    return DELIVERIES.get((delivery, step), delivery)


def table() -> str:
    """`TRANSITIONS` as Markdown, for docs/protocol."""
    return _markdown((*key, to) for key, to in TRANSITIONS.items())


def delivery_table() -> str:
    """`DELIVERIES` as Markdown, for docs/protocol."""
    return _markdown((*key, to) for key, to in DELIVERIES.items())


def _markdown(rows: Iterable[tuple[StrEnum | None, StrEnum, StrEnum]]) -> str:
    lines = ["| from | what happens | to |", "|---|---|---|"]
    lines += [f"| {state or '(new)'} | {step} | {to} |" for state, step, to in rows]
    return "\n".join(lines)
