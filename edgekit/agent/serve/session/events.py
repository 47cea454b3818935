"""The events that the session handles and the effects that it returns. Pure."""

from __future__ import annotations

import msgspec

from edgekit.agent.serve.pipe import Cancel, Done, Generated, Heartbeat, Ready, Refused, Start
from edgekit.agent.serve.session.prompt import JournalRow
from edgekit.core.protocol import wire
from edgekit.core.protocol.exposition import Family
from edgekit.core.quality import QualityReport
from edgekit.errors import EdgekitError
from edgekit.mqtt.terms import NO_PACKET_LIMIT


# --- events -----------------------------------------------------------------------------------
class Received(msgspec.Struct, frozen=True):
    """A message on a request topic."""

    message: wire.Inbound


class Controlled(msgspec.Struct, frozen=True):
    """A message on a control topic."""

    message: wire.Inbound


class MessageHeard(msgspec.Struct, frozen=True):
    """A message on a topic that a rule listens to."""

    message: wire.Inbound


class WorkerLost(msgspec.Struct, frozen=True):
    """The worker process has ended."""


class Connected(msgspec.Struct, frozen=True):
    """The agent is connected to the broker and subscribed, for the first time or again.

    Attributes:
        max_packet_bytes: the largest packet that this broker takes.
        unserved_pools: pools to which it could not subscribe.
    """

    max_packet_bytes: int = NO_PACKET_LIMIT
    unserved_pools: tuple[str, ...] = ()


class Disconnected(msgspec.Struct, frozen=True):
    """The connection to the broker is lost: a message that is sent now arrives nowhere."""


class TakenOver(msgspec.Struct, frozen=True):
    """Another client of the same name has taken over the session at the broker (0x8E)."""


class ReadyUnsaid(msgspec.Struct, frozen=True):
    """The file of `SayReady` could not be written."""


class Published(msgspec.Struct, frozen=True):
    """The broker's answer to a message at QoS 1.

    `code` is the PUBACK's reason code (§3.4.2.1), or None when the connection was lost before it.
    """

    reply: Publish
    code: int | None


class Restored(msgspec.Struct, frozen=True):
    """The rows of the journal, read at the start."""

    rows: tuple[JournalRow, ...]


class Unrecorded(msgspec.Struct, frozen=True):
    """A commit failed. It is the next event after the step that asked for it.

    `recorded` and `forgotten` are the keys of the rows that it was to write and to remove.
    """

    recorded: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


class StorageBack(msgspec.Struct, frozen=True):
    """The journal can be written again."""


class Readings(msgspec.Struct, frozen=True):
    """The device's sensors; None for a value that is not known.

    Attributes:
        temp_c: degrees Celsius of the hottest thermal zone.
        mem_free_mb: memory that the agent can still use, in megabytes.
        disk_free_mb: free space in megabytes on the disk with the journal.
        mem_total_mb: all that it may use: the machine's, or a lower limit; in megabytes.
    """

    temp_c: int | None
    mem_free_mb: int | None
    disk_free_mb: int | None = None
    mem_total_mb: int | None = None


class QualityKnown(msgspec.Struct, frozen=True):
    """How this release compares with the one before it, for the status."""

    report: QualityReport


class Tick(msgspec.Struct, frozen=True):
    """Time passed.

    Attributes:
        epoch: Unix seconds minus monotonic seconds: the device's clock may be set at any time, as
            it is minutes after the boot of a device without a battery. None: as before.
    """

    epoch: float | None = None


class Drain(msgspec.Struct, frozen=True):
    """SIGTERM: take no new prompt, finish running ones until `deadline` (monotonic seconds).

    With `successor` another agent takes this one's place on the same journal: it gets the prompts
    that wait, those that come now, and those that run past the deadline.
    """

    deadline: float
    successor: bool = False


class Stopped(msgspec.Struct, frozen=True):
    """The process ends. This is the last event, and a reply to it would not be sent."""


# --- effects ----------------------------------------------------------------------------------
class Publish(msgspec.Struct, frozen=True):
    """Send a message.

    A reply has the `key` of its prompt and its `ek-kind`. It is sent after the prompt's `Record`
    is committed, and `Published` reports the broker's answer.
    """

    message: wire.Outbound
    key: str = ""
    kind: str = ""


class Record(msgspec.Struct, frozen=True):
    """Commit a row, before any other effect of the same step except `ToWorker`."""

    row: JournalRow


class Forget(msgspec.Struct, frozen=True):
    """Remove the row of this key, in the commit of the same step."""

    key: str


class CheckStorage(msgspec.Struct, frozen=True):
    """Test whether the journal can be written; `StorageBack` reports that it can."""


class LeavePools(msgspec.Struct, frozen=True):
    """Unsubscribe from the pools: other devices must get their prompts."""


class Warn(msgspec.Struct, frozen=True):
    """Write a line to the log."""

    text: str


class Ack(msgspec.Struct, frozen=True):
    """Send the PUBACK for the message of this token."""

    token: object


class ToWorker(msgspec.Struct, frozen=True):
    """Send a message to the worker."""

    message: Start | Cancel


class ForgetShown(msgspec.Struct, frozen=True):
    """The broker has taken the device's entry for Home Assistant back: it is not done again."""


class Spawn(msgspec.Struct, frozen=True):
    """Start a worker after `after_seconds`. A worker that still runs then is stopped."""

    after_seconds: float


class GoOnline(msgspec.Struct, frozen=True):
    """Connect to the broker and keep trying; `Connected` and `Disconnected` report it."""


class SayReady(msgspec.Struct, frozen=True):
    """Write the file that tells the supervisor that this model answers.

    `ReadyUnsaid` reports a failure; `again` marks the attempts after one.
    """

    model: Ready
    again: bool = False


class ReadSensors(msgspec.Struct, frozen=True):
    """Read the device's sensors; `Readings` reports them."""


class Snapshot(msgspec.Struct, frozen=True):
    """The state of the agent, after every `Tick`: for the service manager and for metrics.

    Attributes:
        status: of the device, published or not.
        connected: the broker has confirmed the subscriptions.
        answers: at least once a model was loaded while the broker was connected.
        owed: the worker has something to do: load the model, or run a prompt.
        silent_seconds: for how long the worker had something to do and sent nothing.
        metrics: counters, histograms and gauges.
        refused: topics on which the broker refused the latest message, with the reason codes.
    """

    status: wire.Status
    connected: bool
    answers: bool
    owed: bool
    silent_seconds: float
    metrics: tuple[Family, ...]
    refused: tuple[tuple[str, int], ...] = ()


class Exit(msgspec.Struct, frozen=True):
    """Every prompt is answered: end the process. The last effect of a session."""


class GiveUp(msgspec.Struct, frozen=True):
    """End the process at once with this error, without a drain."""

    error: EdgekitError


Event = (
    Received
    | Controlled
    | MessageHeard
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
    | QualityKnown
    | Tick
    | Drain
    | Stopped
)
Effect = (
    Publish
    | Warn
    | Ack
    | ToWorker
    | ForgetShown
    | Spawn
    | Record
    | Forget
    | CheckStorage
    | GoOnline
    | LeavePools
    | SayReady
    | ReadSensors
    | Snapshot
    | Exit
    | GiveUp
)
