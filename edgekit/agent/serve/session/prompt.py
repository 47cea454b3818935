"""One prompt: as the session works on it, and as the journal keeps it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edgekit.agent.serve.session.states import Delivery, PromptStep, State, move
from edgekit.core import chat, wire

KEEP_SECONDS = 600.0  # an outcome is kept so long, or until the prompt's own expiry
UNSENT_KEEP_SECONDS = 86_400.0  # and longer where no broker has acknowledged it


class Outcome(msgspec.Struct, frozen=True):
    """How a prompt ended: the payload of its `final` or `error`, sent as it is ever after."""

    kind: str
    code: str  # of the error, else empty
    status: int
    payload: bytes


class JournalRow(msgspec.Struct, frozen=True):
    """What the journal keeps of a prompt; times are seconds of the monotonic clock.

    Attributes:
        payload: the body, until the prompt has ended; `body_hash` (SHA-256) stays.
        sent: the outcome was acknowledged by the broker, or nobody is to hear of it.
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
    request: chat.ChatRequest | None = None
    state: State = State.ACCEPTED
    starts: int = 0
    deaths: int = 0  # of the worker, while this one ran
    started_at: float = 0.0
    seq: int = 0
    mute: bool = False  # started again after deltas went out: only the final is sent
    cancelling: bool = False
    outcome: Outcome | None = None
    delivery: Delivery = Delivery.UNSENT  # of its outcome; the ledger alone changes it
    retry_at: float = 0.0  # monotonic seconds: a refused outcome is not published before this
    stored: bool = False  # the journal has been given it
    new_to_journal: bool = False  # and that was in the commit that is under way

    @classmethod
    def restore(cls, row: JournalRow) -> Prompt:
        """The prompt of a row; deltas may have gone out before, so it is mute once it ran."""
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
        )

    def row(self) -> JournalRow:
        """What the journal keeps."""
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
        )

    @property
    def sent(self) -> bool:
        """Whether the broker has the outcome, or nobody is to hear of it."""
        return self.delivery is Delivery.SENT

    @property
    def forget_at(self) -> float:
        """When an outcome's time is over: later for one that nobody can have seen."""
        return self.keep_until + (0.0 if self.sent else UNSENT_KEEP_SECONDS)

    @property
    def size_bytes(self) -> int:
        """What it takes in the journal, about."""
        return len(self.payload) + (len(self.outcome.payload) if self.outcome else 0)

    def move(self, step: PromptStep) -> None:
        """Go on by the table."""
        self.state = move(self.state, step)

    def end(self, step: PromptStep, outcome: Outcome, now: float) -> None:
        """Have an outcome. The body is not needed any more, and is somebody's words."""
        self.move(step)
        self.outcome = outcome
        self.payload, self.request = b"", None
        self.keep_until = max(self.deadline, now + KEEP_SECONDS)
