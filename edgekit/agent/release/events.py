"""What happens to a trial, and what it wants done: its events and its effects."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.core.digest import Digest
from edgekit.core.release import ReleaseEvent, ReleaseState


# --- events -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OnDisk:
    """A supervisor starts, and this is what the disk holds.

    Attributes:
        release: the release that `current` names.
        state: how it stands; None where no row says it, or in a word of a later version.
        tries: supervisors that have started it during this trial.
        reason: why its last trial failed, empty where it did not.
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
    """The supervisor of a release could not be started; with what the disk holds, and why."""

    found: OnDisk
    reason: str


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """The agent's process runs and has so many seconds to become ready."""

    trial_seconds: float


@dataclass(frozen=True, slots=True)
class AgentReady:
    """The ready file is there: the agent answers prompts."""


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent's process is gone; with the end of the device's log."""

    log: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """SIGTERM or SIGINT came."""


@dataclass(frozen=True, slots=True)
class StopsHeld:
    """No stop has come, and one that comes from now on waits for the successor."""


# --- effects: each is done again without harm -------------------------------------------------
@dataclass(frozen=True, slots=True)
class CountTry:
    """Record that a supervisor starts the release on trial."""

    release: Digest


@dataclass(frozen=True, slots=True)
class RecordVerdict:
    """Move the release along the table of `core.release`; with the reason of a failure."""

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
    """`agent.toml.good` becomes `agent.toml`."""


@dataclass(frozen=True, slots=True)
class RestorePreviousConfig:
    """`agent.toml.previous` becomes `agent.toml`, unless it has become that before."""


@dataclass(frozen=True, slots=True)
class MoveCurrent:
    """Point `current` at a release, or remove it."""

    to: Digest | None


@dataclass(frozen=True, slots=True)
class HoldStops:
    """Let a stop wait from now on; `StopsHeld` follows, or `StopAsked` where one has come."""


@dataclass(frozen=True, slots=True)
class BecomeSuccessor:
    """Become the supervisor of `current`, under the same lock; the last effect."""


@dataclass(frozen=True, slots=True)
class KeepRunning:
    """Keep the agent of `current` running until a stop; the last effect."""


@dataclass(frozen=True, slots=True)
class EndSupervisor:
    """The supervisor ends with this exit code; the last effect."""

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
