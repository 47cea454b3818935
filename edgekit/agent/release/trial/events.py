"""The events that a trial takes and the effects that it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.core.digest import Digest
from edgekit.core.golden import Golden, TrialReport
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
        older: the release that `older` names: what `previous` named before the trial.
        unproven: its last trial was unproven, and no other one has begun since.
    """

    release: Digest | None
    state: ReleaseState | None = None
    tries: int = 0
    reason: str = ""
    good_config: bool = False
    previous: Digest | None = None
    older: Digest | None = None
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorFailed:
    """The supervisor of a release could not be started: the state on disk, and the reason."""

    found: OnDisk
    reason: str


@dataclass(frozen=True, slots=True)
class TryUnrecorded:
    """The disk takes no record of the try, and the agent was not started; the reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Demands:
    """What a release has to show in its trial, besides that it answers.

    Attributes:
        golden: the bundle's golden prompts; None for a bundle without: no score and no soak.
        min_tokens_per_second: the floor; 0: `demands.LEAST_TOKENS_PER_SECOND`.
        max_rss_bytes: the most memory of agent and worker together; 0: no cap.
        slot_bytes: what each slot beyond the first adds to it; 0: it is the cap for all of them.
        broker: its address, for the reason.
        was_connected: the release before was connected to the broker when the trial began.
    """

    golden: Golden | None = None
    min_tokens_per_second: float = 0.0
    max_rss_bytes: int = 0
    slot_bytes: int = 0
    broker: str = "the broker"
    was_connected: bool = True


@dataclass(frozen=True, slots=True)
class ActivationComes:
    """An activation begins and has read this state from the disk: what is half done comes first."""

    found: OnDisk


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """The agent's process runs; it has `trial_seconds` to become ready."""

    trial_seconds: float
    demands: Demands = Demands()


@dataclass(frozen=True, slots=True)
class AgentReady:
    """The ready file exists: the agent answers prompts, in so many slots."""

    slots: int = 1


@dataclass(frozen=True, slots=True)
class Reported:
    """The agent on trial has written a new report."""

    report: TrialReport


@dataclass(frozen=True, slots=True)
class AgentEnded:
    """The agent's process has ended; `log` is the end of the device's log."""

    log: str


@dataclass(frozen=True, slots=True)
class AgentCrashed:
    """The kept agent ended again, soon after its start: for the `times`-th time in a row."""

    times: int
    log: str


@dataclass(frozen=True, slots=True)
class RetryDue:
    """An unproven release can be tried again: its back-off is over."""

    release: Digest


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing else happened; the deadline, or the end of the soak, may have come."""


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
class RecordUnproven:
    """Record that a trial ended unproven.

    With `only_config` the release is good under the configuration before; else it stays on trial.
    """

    release: Digest
    reason: str
    only_config: bool


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Begin the trial of an unproven release again: records and links, as an activation does."""

    release: Digest


@dataclass(frozen=True, slots=True)
class TakeNextConfig:
    """Rename `agent.toml.next` to `agent.toml` if it belongs to this trial and still exists."""

    release: Digest


@dataclass(frozen=True, slots=True)
class SetAsideConfig:
    """Rename `agent.toml` to `agent.toml.next`, unless the way back has begun before."""


@dataclass(frozen=True, slots=True)
class RestoreOlder:
    """Rename `older` to `previous`; without `older` there is no previous release."""


@dataclass(frozen=True, slots=True)
class ForgetOlder:
    """Remove the link `older`."""


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
    """Rename `previous`, which names the release, to `current`; None: remove `current`."""

    to: Digest | None


@dataclass(frozen=True, slots=True)
class HoldStops:
    """Block stop signals from now on; `StopsHeld` follows, or `StopAsked` if one has come."""


@dataclass(frozen=True, slots=True)
class BecomeSuccessor:
    """Become the supervisor of `current` and keep the lock; the last effect."""


@dataclass(frozen=True, slots=True)
class KeepRunning:
    """Keep the agent of `current` running until a stop, a crash loop or a retry."""


@dataclass(frozen=True, slots=True)
class EndSupervisor:
    """End the supervisor with this exit code; the last effect."""

    code: int


Event = (
    OnDisk
    | SupervisorFailed
    | TryUnrecorded
    | ActivationComes
    | AgentStarted
    | AgentReady
    | Reported
    | AgentEnded
    | AgentCrashed
    | RetryDue
    | TimePassed
    | StopAsked
    | StopsHeld
)
Effect = (
    CountTry
    | RecordVerdict
    | RecordUnproven
    | TryAgain
    | TakeNextConfig
    | SetAsideConfig
    | RestoreOlder
    | ForgetOlder
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
