"""The life of a release on a device: `staged -> trial -> good | bad` (RAUC's and ostree's words).

The table below is the single source; the device's state file only records its moves. When a trial
does not end with `good`, the device goes back to `previous`: after a crash, a reboot or a killed
activation alike.
"""

from __future__ import annotations

from enum import StrEnum

from edgekit.errors import EdgekitError


class ReleaseState(StrEnum):
    """The state of a release on one device."""

    STAGED = "staged"  # verified, unpacked and published; it never ran, or its trial broke off
    TRIAL = "trial"  # it has yet to answer, or to reach the broker (then it waits, unproven)
    GOOD = "good"  # it answered on this device
    BAD = "bad"  # it failed its trial, or crashed again and again; the reason is kept


class ReleaseEvent(StrEnum):
    """The events in the life of a release."""

    STAGE = "stage"
    ACTIVATE = "activate"
    ANSWERED = "answered"
    FAILED = "failed"
    RESTORED = "restored"  # only its new configuration failed; the release runs under the old one
    UNPROVEN = "unproven"  # it met every demand, but the broker could not be reached
    SUPERSEDED = "superseded"  # another release is activated during its trial
    CRASHED = "crashed"  # it was good, and now ends again and again soon after its start


TRANSITIONS: dict[tuple[ReleaseState | None, ReleaseEvent], ReleaseState] = {
    (None, ReleaseEvent.STAGE): ReleaseState.STAGED,
    (ReleaseState.STAGED, ReleaseEvent.STAGE): ReleaseState.STAGED,
    (ReleaseState.GOOD, ReleaseEvent.STAGE): ReleaseState.GOOD,
    (ReleaseState.BAD, ReleaseEvent.STAGE): ReleaseState.STAGED,
    (ReleaseState.TRIAL, ReleaseEvent.STAGE): ReleaseState.STAGED,
    (ReleaseState.STAGED, ReleaseEvent.ACTIVATE): ReleaseState.TRIAL,
    (ReleaseState.GOOD, ReleaseEvent.ACTIVATE): ReleaseState.TRIAL,
    (ReleaseState.BAD, ReleaseEvent.ACTIVATE): ReleaseState.TRIAL,
    (ReleaseState.TRIAL, ReleaseEvent.ACTIVATE): ReleaseState.TRIAL,
    (ReleaseState.TRIAL, ReleaseEvent.ANSWERED): ReleaseState.GOOD,
    (ReleaseState.TRIAL, ReleaseEvent.FAILED): ReleaseState.BAD,
    (ReleaseState.TRIAL, ReleaseEvent.RESTORED): ReleaseState.GOOD,
    (ReleaseState.TRIAL, ReleaseEvent.UNPROVEN): ReleaseState.TRIAL,
    (ReleaseState.TRIAL, ReleaseEvent.SUPERSEDED): ReleaseState.STAGED,
    (ReleaseState.GOOD, ReleaseEvent.CRASHED): ReleaseState.BAD,
}


def after(state: ReleaseState | None, event: ReleaseEvent) -> ReleaseState:
    """The state after `event`.

    Raises:
        EdgekitError: the table has no such move.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise EdgekitError(
            f"a release that is {state or 'unknown'} cannot {event}",
            next_step="look at `edgekit state` and stage the release first",
        ) from None


def table() -> str:
    """The transitions as a Markdown table for docs/architecture.md; equal results share a row."""
    rows: dict[tuple[ReleaseEvent, ReleaseState], list[str]] = {}
    for (state, event), to in TRANSITIONS.items():
        rows.setdefault((event, to), []).append(state or "(new)")
    lines = ["| from | event | to |", "|---|---|---|"]
    lines += [f"| {', '.join(states)} | {event} | {to} |" for (event, to), states in rows.items()]
    return "\n".join(lines)
