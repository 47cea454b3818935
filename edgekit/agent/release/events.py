"""The events that a trial takes and the effects that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState


# --- events -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OnDisk:
    """A supervisor starts and has read this state from the disk.

    Attributes:
        release: the release that `current` names.
        state: its state; None if it has no row, or if only a later version knows the state.
        tries: how many supervisors have started it during this trial.
        reason: why its last trial failed; empty if it did not fail.
        good_config: whether `agent.toml.good` exists.
        previous: the release that `previous` names.
    """

    release: Digest | None
    state: ReleaseState | None = None
    tries: int = 0
    reason: str = ""
    good_config: bool = False
    previous: Digest | None = None


@dataclass(frozen=True, slots=True)
class SupervisorFailed:
    """The supervisor of a release could not be started: the state on disk, and the reason."""

    found: OnDisk
    reason: str


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """The agent's process runs; it has `trial_seconds` to become ready."""

    trial_seconds: float


@dataclass(frozen=True, slots=True)
class AgentReady:
    """The ready file exists: the agent answers prompts."""


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent's process has ended; `log` is the end of the device's log."""

    log: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing else happened; the deadline may have passed."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The supervisor received SIGTERM or SIGINT."""


@dataclass(frozen=True, slots=True)
class StopsHeld:
    """No stop signal has come; a later one stays blocked until the successor handles it."""


# --- effects: to perform one twice does no harm ------------------------------------------------
@dataclass(frozen=True, slots=True)
class CountTry:
    """Record that a supervisor starts the release on trial, before it does."""

    release: Digest


@dataclass(frozen=True, slots=True)
class RecordVerdict:
    """Move the release along the table of `core.release`; `reason` says why it failed."""

    release: Digest
    event: ReleaseEvent
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartAgent:
    """Start the agent of `current`; `AgentStarted` follows."""


@dataclass(frozen=True, slots=True)
class EndAgent:
    """End the agent and wait for it; `AgentEnded` follows."""


@dataclass(frozen=True, slots=True)
class ForgetGoodConfig:
    """Remove `agent.toml.good`."""


@dataclass(frozen=True, slots=True)
class RestoreGoodConfig:
    """Rename `agent.toml.good` to `agent.toml`."""


@dataclass(frozen=True, slots=True)
class RestorePreviousConfig:
    """Rename `agent.toml.previous` to `agent.toml`, unless that has been done before."""


@dataclass(frozen=True, slots=True)
class MoveCurrent:
    """Point `current` at a release, or remove it."""

    to: Digest | None


@dataclass(frozen=True, slots=True)
class HoldStops:
    """Block stop signals from now on; `StopsHeld` follows, or `StopAsked` if one has come."""


@dataclass(frozen=True, slots=True)
class BecomeSuccessor:
    """Become the supervisor of `current` and keep the lock; the last effect."""


@dataclass(frozen=True, slots=True)
class KeepRunning:
    """Keep the agent of `current` running until a stop; the last effect."""


@dataclass(frozen=True, slots=True)
class EndSupervisor:
    """End the supervisor with this exit code; the last effect."""

    code: int


Event = (
    OnDisk
    | SupervisorFailed
    | AgentStarted
    | AgentReady
    | AgentEnded
    | TimePassed
    | StopAsked
    | StopsHeld
)
Effect = (
    CountTry
    | RecordVerdict
    | StartAgent
    | EndAgent
    | ForgetGoodConfig
    | RestoreGoodConfig
    | RestorePreviousConfig
    | MoveCurrent
    | HoldStops
    | BecomeSuccessor
    | KeepRunning
    | EndSupervisor
)
