"""What happens to the session, and what it wants done: its events and its effects."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.agent.serve.pipe import Cancel, Delta, Done, Failed, Ready, Start
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
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Drain:
    """SIGTERM: take nothing new, finish what runs until `deadline` (monotonic seconds)."""

    deadline: float


Event = (
    Received | Controlled | Ready | Delta | Done | Failed | WorkerLost | Connected | Tick | Drain
)


# --- effects ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message."""

    message: wire.Outbound


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


Effect = Publish | Ack | ToWorker | Spawn | Exit
