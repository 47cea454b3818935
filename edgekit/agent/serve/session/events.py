"""What happens to the session, and what it wants done: its events and its effects. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Heartbeat, Ready, Refused, Start
from edgekit.agent.serve.session.exposition import Family
from edgekit.agent.serve.session.prompt import JournalRow
from edgekit.core import wire
from edgekit.errors import EdgekitError


# --- events -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Received:
    """A message on a request topic."""

    message: wire.Inbound


@dataclass(frozen=True, slots=True)
class Controlled:
    """A message on a control topic."""

    message: wire.Inbound


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker process is gone."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Subscribed at the broker, again or for the first time."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No connection: nothing that is said now is heard."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The broker has given our session to another client of the same name (0x8E)."""


@dataclass(frozen=True, slots=True)
class ReadyUnsaid:
    """What `SayReady` was to write could not be written."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a reply at QoS 1: the PUBACK's reason code (§3.4.2.1), or None when the
    connection was lost before it came."""

    reply: Publish
    code: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What the journal holds, read at the start."""

    rows: tuple[JournalRow, ...]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A commit failed: what it was to record and to forget, by key. The very next event."""

    recorded: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StorageBack:
    """The journal can be written again."""


@dataclass(frozen=True, slots=True)
class Readings:
    """How the device is: degrees Celsius of the hottest zone, megabytes that are free of its memory
    and of the disk with the journal; None for what is not known."""

    temp_c: int | None
    mem_free_mb: int | None
    disk_free_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Drain:
    """SIGTERM: take nothing new, finish what runs until `deadline` (monotonic seconds)."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The process ends: after this there is no event and nobody who hears anything."""


# --- effects ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message; with the `key` of the prompt that it answers, and then its `ek-kind`.

    It waits for this prompt's `Record`, and what becomes of it is told by `Published`.
    """

    message: wire.Outbound
    key: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """Commit a row; before everything that is said in the same breath, except `ToWorker`."""

    row: JournalRow


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the row of this key, in the same commit."""

    key: str


@dataclass(frozen=True, slots=True)
class CheckStorage:
    """Try whether the journal can be written; `StorageBack` if so."""


@dataclass(frozen=True, slots=True)
class LeavePools:
    """Unsubscribe from the pools: others shall get their prompts."""


@dataclass(frozen=True, slots=True)
class Ack:
    """PUBACK the message of this token."""

    token: object


@dataclass(frozen=True, slots=True)
class ToWorker:
    """Tell the worker."""

    message: Start | Cancel


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker after so many seconds; one that runs still is stopped then."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class GoOnline:
    """Connect to the broker, and keep trying; `Connected` and `Disconnected` tell."""


@dataclass(frozen=True, slots=True)
class SayReady:
    """Tell the supervisor that this model answers; `ReadyUnsaid` if that fails.

    It is said `again` because it has failed before.
    """

    model: Ready
    again: bool = False


@dataclass(frozen=True, slots=True)
class SayStopping:
    """Tell the service manager that nothing new is taken any more."""


@dataclass(frozen=True, slots=True)
class ReadSensors:
    """Find out how the device is; `Readings` tells."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the agent is, in every `Tick`: for the service manager, and for metrics.

    Attributes:
        status: of the device, said or not.
        connected: the broker has subscribed us.
        answers: the model has answered and the broker has subscribed us, if only once.
        owed: the worker has something to do: to load the model, or a prompt.
        silent_seconds: for which the worker has owed something and said nothing.
        metrics: what was counted, and how it is now.
    """

    status: wire.Status
    connected: bool
    answers: bool
    owed: bool
    silent_seconds: float
    metrics: tuple[Family, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything is answered; the process may end. The last effect of all."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the process now with this error: it cannot do its work, and nobody is waited for."""

    error: EdgekitError


Event = (
    Received
    | Controlled
    | Ready
    | Heartbeat
    | Generated
    | Done
    | Refused
    | WorkerLost
    | Connected
    | Disconnected
    | TakenOver
    | ReadyUnsaid
    | Published
    | Restored
    | Unrecorded
    | StorageBack
    | Readings
    | Tick
    | Drain
    | Stopped
)
Effect = (
    Publish
    | Ack
    | ToWorker
    | Spawn
    | Record
    | Forget
    | CheckStorage
    | GoOnline
    | LeavePools
    | SayReady
    | SayStopping
    | ReadSensors
    | Snapshot
    | Exit
    | GiveUp
)
