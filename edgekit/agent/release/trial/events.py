"""The events that a trial takes and the effects that it asks for."""

from __future__ import annotations

import msgspec

from edgekit.core.digest import Digest
from edgekit.core.golden import Golden, TrialReport
from edgekit.core.release import ReleaseEvent, ReleaseState


# --- events -----------------------------------------------------------------------------------
class OnDisk(msgspec.Struct, frozen=True):
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


class SupervisorFailed(msgspec.Struct, frozen=True):
    """The supervisor of a release could not be started: the state on disk, and the reason."""

    found: OnDisk
    reason: str


class TryUnrecorded(msgspec.Struct, frozen=True):
    """The disk takes no record of the try, and the agent was not started; the reason."""

    reason: str


class Demands(msgspec.Struct, frozen=True):
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


class ActivationComes(msgspec.Struct, frozen=True):
    """An activation begins and has read this state from the disk: what is half done comes first."""

    found: OnDisk


class AgentStarted(msgspec.Struct, frozen=True):
    """The agent's process runs; it has `trial_seconds` to become ready."""

    trial_seconds: float
    demands: Demands = Demands()


class AgentReady(msgspec.Struct, frozen=True):
    """The ready file exists: the agent answers prompts, in so many slots."""

    slots: int = 1


class Reported(msgspec.Struct, frozen=True):
    """The agent on trial has written a new report."""

    report: TrialReport


class AgentEnded(msgspec.Struct, frozen=True):
    """The agent's process has ended; `log` is the end of the device's log."""

    log: str


class AgentCrashed(msgspec.Struct, frozen=True):
    """The kept agent ended again, soon after its start: for the `times`-th time in a row."""

    times: int
    log: str


class RetryDue(msgspec.Struct, frozen=True):
    """An unproven release can be tried again: its back-off is over."""

    release: Digest


class TimePassed(msgspec.Struct, frozen=True):
    """Nothing else happened; the deadline, or the end of the soak, may have come."""


class StopAsked(msgspec.Struct, frozen=True):
    """The supervisor received SIGTERM or SIGINT."""


class StopsHeld(msgspec.Struct, frozen=True):
    """No stop signal has come; a later one stays blocked until the successor handles it."""


# --- effects: to perform one twice does no harm ------------------------------------------------
class CountTry(msgspec.Struct, frozen=True):
    """Record that a supervisor starts the release on trial, before it does."""

    release: Digest


class RecordVerdict(msgspec.Struct, frozen=True):
    """Move the release along the table of `core.release`; `reason` says why it failed."""

    release: Digest
    event: ReleaseEvent
    reason: str = ""


class RecordUnproven(msgspec.Struct, frozen=True):
    """Record that a trial ended unproven.

    With `only_config` the release is good under the configuration before; else it stays on trial.
    """

    release: Digest
    reason: str
    only_config: bool


class TryAgain(msgspec.Struct, frozen=True):
    """Begin the trial of an unproven release again: records and links, as an activation does."""

    release: Digest


class TakeNextConfig(msgspec.Struct, frozen=True):
    """Rename `agent.toml.next` to `agent.toml` if it belongs to this trial and still exists."""

    release: Digest


class SetAsideConfig(msgspec.Struct, frozen=True):
    """Rename `agent.toml` to `agent.toml.next`, unless the way back has begun before."""


class RestoreOlder(msgspec.Struct, frozen=True):
    """Rename `older` to `previous`; without `older` there is no previous release."""


class ForgetOlder(msgspec.Struct, frozen=True):
    """Remove the link `older`."""


class StartAgent(msgspec.Struct, frozen=True):
    """Start the agent of `current`; `AgentStarted` follows."""


class EndAgent(msgspec.Struct, frozen=True):
    """End the agent and wait for it; `AgentEnded` follows."""


class ForgetGoodConfig(msgspec.Struct, frozen=True):
    """Remove `agent.toml.good`."""


class RestoreGoodConfig(msgspec.Struct, frozen=True):
    """Rename `agent.toml.good` to `agent.toml`."""


class RestorePreviousConfig(msgspec.Struct, frozen=True):
    """Rename `agent.toml.previous` to `agent.toml`, unless that has been done before."""


class MoveCurrent(msgspec.Struct, frozen=True):
    """Rename `previous`, which names the release, to `current`; None: remove `current`."""

    to: Digest | None


class HoldStops(msgspec.Struct, frozen=True):
    """Block stop signals from now on; `StopsHeld` follows, or `StopAsked` if one has come."""


class BecomeSuccessor(msgspec.Struct, frozen=True):
    """Become the supervisor of `current` and keep the lock; the last effect."""


class KeepRunning(msgspec.Struct, frozen=True):
    """Keep the agent of `current` running until a stop, a crash loop or a retry."""


class EndSupervisor(msgspec.Struct, frozen=True):
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
