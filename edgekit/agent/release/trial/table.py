"""The rules of `trial` as data: what happens, what a supervisor does then, and where it is after.

docs/architecture.md prints these tables.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where the supervisor is."""

    STARTING = "starting"
    TRYING = "trying"
    SOAKING = "soaking"
    ENDING = "ending the agent"
    UNREACHED = "ending the agent, unproven"
    RETURNING = "going back"
    KEEPING = "keeping the agent"
    OVER = "over"


class Happening(StrEnum):
    """The meaning of an event for the supervisor."""

    NOTHING_ACTIVE = "no release is current"
    SETTLED = "no trial, and nothing left of one"
    NEW_TRIAL = "a trial that no supervisor began, or an unproven one without a way back"
    TRIED_BEFORE = "a trial that a supervisor began"
    ANSWERED_BEFORE = "`agent.toml.good` is left, the release is good and without a reason"
    HALF_RETURNED = "`agent.toml.good` is left otherwise, or the release is bad or staged"
    HALF_UNPROVEN = "its trial was unproven, and it is still current"
    OLDER_LEFT = "`older` is left, and `previous` names another release"
    OLDER_LOST = "`previous` names the release itself, or nothing while `older` is left"
    CANNOT_START = "the supervisor of a trial cannot start"
    UNRECORDED = "the try cannot be recorded"
    UNRECORDED_ALONE = "it cannot be recorded, and there is no way back"
    SUPERSEDED = "a new activation comes while a configuration is on trial"
    READY = "agent has shown everything, and has no soak"
    SOAK = "agent has shown everything, and has a soak"
    SOAKED = "soak is over"
    UNFIT = "agent's report fails"
    ENDED = "agent ended"
    DEADLINE = "deadline passed"
    UNREACHED = "deadline passed, and neither this release nor the one before reached the broker"
    UNREACHED_ALONE = "the same without a way back"
    CRASH_LOOP = "agent crashed too often in a row, and `previous` names another release"
    RETRY_DUE = "an unproven release is due"
    STOP = "stop"
    STOPS_HELD = "stops are held"


class TrialStep(StrEnum):
    """One step of the supervisor; the table gives the order."""

    TAKE_NEXT_CONFIG = "`agent.toml.next` becomes `agent.toml`"
    COUNT_TRY = "record the try"
    START_AGENT = "start the agent"
    END_AGENT = "end the agent"
    FORGET_GOOD_CONFIG = "remove `agent.toml.good`"
    FORGET_OLDER = "remove `older`"
    RECORD_ANSWERED = "record `answered`"
    RECORD_FAILED = "record `failed`"
    RECORD_RESTORED = "record `restored`"
    RECORD_CRASHED = "record `crashed`"
    RECORD_UNPROVEN = "record `unproven`"
    RECORD_FAILURE = "record the failure"
    GO_BACK = "go back"
    SET_ASIDE_CONFIG = "`agent.toml` becomes `agent.toml.next`"
    RESTORE_GOOD_CONFIG = "`agent.toml.good` becomes `agent.toml`"
    RESTORE_PREVIOUS_CONFIG = "`agent.toml.previous` becomes `agent.toml`"
    MOVE_CURRENT = "`previous` becomes `current`"
    RESTORE_OLDER = "`older` becomes `previous`"
    REMOVE_CURRENT = "remove `current`"
    TRY_AGAIN = "begin the trial again"
    HOLD_STOPS = "hold stops"
    BECOME_SUCCESSOR = "become the successor"
    KEEP_RUNNING = "keep the agent running"
    EXIT = "exit with 0"
    EXIT_FAILED = "exit with 1"


class WayBack(StrEnum):
    """The state to which a failed trial returns the device."""

    CONFIG = "`agent.toml.good` exists"
    PREVIOUS = "`previous` names another release"
    NOTHING = "neither"


FAIL = (TrialStep.RECORD_FAILURE, TrialStep.GO_BACK)
SUCCEED = (
    TrialStep.RECORD_ANSWERED,
    TrialStep.FORGET_GOOD_CONFIG,
    TrialStep.FORGET_OLDER,
    TrialStep.KEEP_RUNNING,
)
STOP = (TrialStep.END_AGENT, TrialStep.EXIT)
TRANSITIONS: dict[tuple[Phase, Happening], tuple[Phase, tuple[TrialStep, ...]]] = {
    (Phase.STARTING, Happening.NOTHING_ACTIVE): (Phase.OVER, (TrialStep.EXIT,)),
    (Phase.STARTING, Happening.SETTLED): (Phase.KEEPING, (TrialStep.KEEP_RUNNING,)),
    (Phase.STARTING, Happening.NEW_TRIAL): (
        Phase.TRYING,
        (TrialStep.TAKE_NEXT_CONFIG, TrialStep.COUNT_TRY, TrialStep.START_AGENT),
    ),
    (Phase.STARTING, Happening.TRIED_BEFORE): (Phase.RETURNING, FAIL),
    (Phase.STARTING, Happening.CANNOT_START): (Phase.RETURNING, FAIL),
    (Phase.STARTING, Happening.SUPERSEDED): (Phase.RETURNING, FAIL),
    (Phase.STARTING, Happening.ANSWERED_BEFORE): (
        Phase.KEEPING,
        (TrialStep.FORGET_GOOD_CONFIG, TrialStep.FORGET_OLDER, TrialStep.KEEP_RUNNING),
    ),
    (Phase.STARTING, Happening.HALF_RETURNED): (Phase.RETURNING, (TrialStep.GO_BACK,)),
    (Phase.STARTING, Happening.HALF_UNPROVEN): (
        Phase.RETURNING,
        (TrialStep.SET_ASIDE_CONFIG, TrialStep.GO_BACK),
    ),
    (Phase.STARTING, Happening.OLDER_LEFT): (
        Phase.KEEPING,
        (TrialStep.FORGET_OLDER, TrialStep.KEEP_RUNNING),
    ),
    (Phase.STARTING, Happening.OLDER_LOST): (
        Phase.KEEPING,
        (TrialStep.RESTORE_OLDER, TrialStep.KEEP_RUNNING),
    ),
    (Phase.TRYING, Happening.UNRECORDED): (Phase.RETURNING, FAIL),
    (Phase.TRYING, Happening.UNRECORDED_ALONE): (Phase.TRYING, (TrialStep.START_AGENT,)),
    (Phase.TRYING, Happening.READY): (Phase.KEEPING, SUCCEED),
    (Phase.TRYING, Happening.SOAK): (Phase.SOAKING, ()),
    (Phase.TRYING, Happening.UNFIT): (Phase.ENDING, (TrialStep.END_AGENT,)),
    (Phase.TRYING, Happening.ENDED): (Phase.RETURNING, FAIL),
    (Phase.TRYING, Happening.DEADLINE): (Phase.ENDING, (TrialStep.END_AGENT,)),
    (Phase.TRYING, Happening.UNREACHED): (Phase.UNREACHED, (TrialStep.END_AGENT,)),
    (Phase.TRYING, Happening.UNREACHED_ALONE): (Phase.TRYING, (TrialStep.RECORD_UNPROVEN,)),
    (Phase.TRYING, Happening.STOP): (Phase.OVER, STOP),
    (Phase.SOAKING, Happening.SOAKED): (Phase.KEEPING, SUCCEED),
    (Phase.SOAKING, Happening.UNFIT): (Phase.ENDING, (TrialStep.END_AGENT,)),
    (Phase.SOAKING, Happening.ENDED): (Phase.RETURNING, FAIL),
    (Phase.SOAKING, Happening.STOP): (Phase.OVER, STOP),
    (Phase.ENDING, Happening.ENDED): (Phase.RETURNING, FAIL),
    (Phase.UNREACHED, Happening.ENDED): (
        Phase.RETURNING,
        (TrialStep.RECORD_UNPROVEN, TrialStep.SET_ASIDE_CONFIG, TrialStep.GO_BACK),
    ),
    (Phase.KEEPING, Happening.CRASH_LOOP): (
        Phase.RETURNING,
        (TrialStep.RECORD_CRASHED, TrialStep.GO_BACK),
    ),
    (Phase.KEEPING, Happening.RETRY_DUE): (
        Phase.RETURNING,
        (TrialStep.TRY_AGAIN, TrialStep.END_AGENT, TrialStep.HOLD_STOPS),
    ),
    (Phase.RETURNING, Happening.STOPS_HELD): (Phase.OVER, (TrialStep.BECOME_SUCCESSOR,)),
    (Phase.RETURNING, Happening.STOP): (Phase.OVER, (TrialStep.EXIT,)),
}
# For each way: the steps of `record the failure` and of `go back`, and the phase that follows.
WAYS: dict[WayBack, tuple[TrialStep, tuple[TrialStep, ...], Phase]] = {
    WayBack.CONFIG: (
        TrialStep.RECORD_RESTORED,
        (TrialStep.RESTORE_GOOD_CONFIG, TrialStep.HOLD_STOPS),
        Phase.RETURNING,
    ),
    WayBack.PREVIOUS: (
        TrialStep.RECORD_FAILED,
        (
            TrialStep.RESTORE_PREVIOUS_CONFIG,
            TrialStep.MOVE_CURRENT,
            TrialStep.RESTORE_OLDER,
            TrialStep.HOLD_STOPS,
        ),
        Phase.RETURNING,
    ),
    WayBack.NOTHING: (
        TrialStep.RECORD_FAILED,
        (TrialStep.REMOVE_CURRENT, TrialStep.EXIT_FAILED),
        Phase.OVER,
    ),
}


def table() -> str:
    """The transitions as Markdown, for docs/architecture.md."""
    lines = ["| supervisor is | what happens | what it does | then it is |", "|---|---|---|---|"]
    for (phase, happening), (then, steps) in TRANSITIONS.items():
        lines.append(f"| {phase} | {happening} | {', '.join(steps) or 'wait'} | {then} |")
    return "\n".join(lines)


def ways_table() -> str:
    """The ways back from a failed trial as Markdown, for docs/architecture.md."""
    lines = ["| the first that holds | record the failure | go back | then it is |"]
    lines += ["|---|---|---|---|"]
    for way, (record, steps, then) in WAYS.items():
        lines.append(f"| {way} | {record} | {', '.join(steps)} | {then} |")
    return "\n".join(lines)
