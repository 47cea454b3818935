"""What happens to the session, and what it wants done: its events and its effects."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.agent.serve.job import Row
from edgekit.agent.serve.pipe import Cancel, Delta, Done, Failed, Heartbeat, Ready, Start
from edgekit.core import wire


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
class Published:
    """What became of a reply at QoS 1: the PUBACK's reason code (§3.4.2.1), or None when the
    connection was lost before it came."""

    reply: Publish
    code: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What the journal holds, read at the start."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """A commit failed: what it was to record and to forget, by key. The very next event."""

    recorded: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StorageBack:
    """The journal can be written again."""


@dataclass(frozen=True, slots=True)
class Measured:
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

    row: Row


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
    """Start a worker after so many seconds."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything is answered; the process may end."""


Event = (
    Received
    | Controlled
    | Ready
    | Heartbeat
    | Delta
    | Done
    | Failed
    | WorkerLost
    | Connected
    | Disconnected
    | Published
    | Restored
    | Unrecorded
    | StorageBack
    | Measured
    | Tick
    | Drain
)
Effect = Publish | Ack | ToWorker | Spawn | Record | Forget | CheckStorage | LeavePools | Exit
