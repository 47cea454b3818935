"""One prompt: `Prompt` in the session, `JournalRow` in the journal."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgekit.agent.serve.session.states import Delivery, PromptStep, State, move
from edgekit.core.chat.request import ChatRequest
from edgekit.core.protocol import wire
from edgekit.core.rules.message import Origin

KEEP_SECONDS = 600.0  # an outcome is kept so long, or until its prompt's deadline if later
UNSENT_KEEP_SECONDS = 86_400.0  # added while no broker has acknowledged the outcome


class Outcome(msgspec.Struct, frozen=True):
    """How a prompt ended: the payload of its `final` or `error`, the same in every repeat."""

    kind: str
    code: str  # of the error; empty for a final
    status: int
    payload: bytes


class JournalRow(msgspec.Struct, frozen=True):
    """A prompt as the journal stores it; times are seconds of the monotonic clock.

    Attributes:
        payload: the body; empty after the prompt has ended. `body_hash` (SHA-256) stays.
        sent: the broker has acknowledged the outcome, or it must not be sent.
        origin: of a rule's prompt, whose `payload` is a `Fill`, and whose `body_hash` are the
            digests of its messages.
    """

    key: str
    requester: str
    state: State
    reply: wire.ReplyTo
    body_hash: bytes
    payload: bytes
    queued_at: float
    deadline: float
    keep_until: float
    starts: int = 0
    deaths: int = 0
    outcome: Outcome | None = None
    sent: bool = False
    origin: Origin | None = None


@dataclass(slots=True, eq=False)
class Prompt:
    """One prompt in the session."""

    key: str
    requester: str
    reply: wire.ReplyTo
    payload: bytes
    body_hash: bytes
    queued_at: float
    deadline: float
    keep_until: float
    request: ChatRequest | None = None
    state: State = State.ACCEPTED
    starts: int = 0
    deaths: int = 0  # of the worker, while this one ran
    started_at: float = 0.0
    seq: int = 0
    mute: bool = False  # it was restarted after deltas were sent: only the final follows
    cancelling: bool = False
    outcome: Outcome | None = None
    delivery: Delivery = Delivery.UNSENT  # of the outcome; the ledger alone changes it
    retry_at: float = 0.0  # monotonic seconds: a refused outcome is not published before this
    stored: bool = False  # a `Record` of it was returned
    new_to_journal: bool = False  # its first `Record` is in the latest commit
    origin: Origin | None = None  # a rule asked; None: a client did

    @classmethod
    def restore(cls, row: JournalRow) -> Prompt:
        """Make the prompt of a row. A prompt that ran may have sent deltas: it is mute."""
        return cls(
            row.key,
            row.requester,
            row.reply,
            row.payload,
            row.body_hash,
            row.queued_at,
            row.deadline,
            row.keep_until,
            state=row.state,
            starts=row.starts,
            deaths=row.deaths,
            mute=row.starts > 0,
            outcome=row.outcome,
            delivery=Delivery.SENT if row.sent else Delivery.UNSENT,
            stored=True,
            origin=row.origin,
        )

    def row(self) -> JournalRow:
        """Return the row for the journal."""
        return JournalRow(
            self.key,
            self.requester,
            self.state,
            self.reply,
            self.body_hash,
            self.payload,
            self.queued_at,
            self.deadline,
            self.keep_until,
            self.starts,
            self.deaths,
            self.outcome,
            self.sent,
            self.origin,
        )

    @property
    def sent(self) -> bool:
        """Whether the broker has acknowledged the outcome, or it must not be sent."""
        return self.delivery is Delivery.SENT

    @property
    def forget_at(self) -> float:
        """When the outcome is forgotten (monotonic seconds): a day later if it is undelivered."""
        return self.keep_until + (0.0 if self.sent else UNSENT_KEEP_SECONDS)

    @property
    def size_bytes(self) -> int:
        """Approximate size in the journal."""
        return len(self.payload) + (len(self.outcome.payload) if self.outcome else 0)

    def move(self, step: PromptStep) -> None:
        """Change the state by `TRANSITIONS`."""
        self.state = move(self.state, step)

    def end(self, step: PromptStep, outcome: Outcome, now: float) -> None:
        """Set the outcome, and drop the body: it is private and no longer needed."""
        self.move(step)
        self.outcome = outcome
        self.payload, self.request = b"", None
        self.keep_until = max(self.keep_until, self.deadline, now + KEEP_SECONDS)
