"""The life of one prompt as a table; the code moves by it and docs/protocol prints it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a prompt is; the last four are its end."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Step(StrEnum):
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


TRANSITIONS: dict[tuple[State | None, Step], State] = {
    (None, Step.TAKEN): State.ACCEPTED,
    (State.ACCEPTED, Step.STARTED): State.RUNNING,
    (State.ACCEPTED, Step.CANCELLED): State.CANCELLED,
    (State.ACCEPTED, Step.EXPIRED): State.EXPIRED,
    (State.ACCEPTED, Step.REFUSED): State.FAILED,
    (State.ACCEPTED, Step.CRASHED): State.FAILED,
    (State.ACCEPTED, Step.HANDED_BACK): State.FAILED,
    (State.RUNNING, Step.FINISHED): State.DONE,
    (State.RUNNING, Step.REQUEUED): State.ACCEPTED,
    (State.RUNNING, Step.CANCELLED): State.CANCELLED,
    (State.RUNNING, Step.EXPIRED): State.EXPIRED,
    (State.RUNNING, Step.REFUSED): State.FAILED,
    (State.RUNNING, Step.HANDED_BACK): State.FAILED,
}


def move(state: State | None, step: Step) -> State:
    """The state after a step.

    Raises:
        KeyError: the table has no such step, which is a defect of the caller.
    """
    return TRANSITIONS[state, step]


def table() -> str:
    """The transitions as Markdown, for docs/protocol."""
    lines = ["| from | what happens | to |", "|---|---|---|"]
    lines += [
        f"| {state or '(new)'} | {step} | {to} |" for (state, step), to in TRANSITIONS.items()
    ]
    return "\n".join(lines)
