"""A requester's clock: when to send a prompt again, when to query it, when to give up. Pure.

The rules are those of docs/protocol, "What a requester does".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FIRST_REPLY_SECONDS = 15.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0)  # after that wait, before the requester sends again
JITTER = 0.2
SILENCE_SECONDS = 15.0  # without a reply after the first, then the requester sends `query`


class Do(Enum):
    """The requester's next step when a wait is over."""

    SEND = "send the prompt"
    QUERY = "ask what became of it"
    GIVE_UP = "nobody answers"


@dataclass(slots=True)
class Asking:
    """The state of one prompt at its requester.

    Args:
        deadline: of the prompt, in seconds on the same clock as `now`.
        device: the device's name; empty until a device of a pool replies.
    """

    deadline: float
    device: str = ""
    attempts: int = 0
    heard: bool = False  # a reply has arrived
    streaming: bool = False  # a delta has arrived: the prompt is never sent again
    forgotten: bool = False  # the device that had the prompt no longer knows it
    _due: float = 0.0
    _backing_off: bool = False

    def next(self, now: float, draw: float) -> tuple[Do | None, float]:
        """Decide the next step, and until when to wait for a message.

        Args:
            now: seconds.
            draw: uniform in [0, 1), for the jitter.

        Returns:
            The step that is due, or None, and the end of the wait in seconds.
        """
        if now >= self.deadline:
            return Do.GIVE_UP, now
        if now < self._due:
            return None, min(self._due, self.deadline)
        if self.heard:
            self._due = now + SILENCE_SECONDS
            return Do.QUERY, min(self._due, self.deadline)
        if self.attempts and not self._backing_off:
            if self.attempts > len(BACKOFF_SECONDS):
                return Do.GIVE_UP, now
            self._backing_off = True
            pause = BACKOFF_SECONDS[self.attempts - 1] * (1 - JITTER + 2 * JITTER * draw)
            self._due = now + pause
            return None, min(self._due, self.deadline)
        return self._send(now)

    @property
    def why(self) -> str:
        """The reason why the requester gives up."""
        if self.forgotten:
            return "it knows nothing of the prompt any more"
        if self.heard:
            return "it has the prompt, and its answer did not come in time"
        return f"no reply to {self.attempts} attempts before the deadline"

    def concerns(self, device: str, kind: str) -> bool:
        """Whether a message belongs to the answer that the requester follows.

        A pool's prompt that was sent twice may run on two devices. From the other device the
        requester uses only a final.
        """
        return not self.heard or device in ("", self.device) or kind == "final"

    def reply(self, device: str, now: float, *, delta: bool = False) -> None:
        """Record a reply from this device."""
        self.heard = True
        self.device = device or self.device
        self.streaming = self.streaming or delta
        self._due = now + SILENCE_SECONDS

    def unknown(self, now: float, draw: float) -> tuple[Do | None, float]:
        """Record that the device does not know a prompt that it accepted: its disk is new.

        Returns:
            As `next`.
        """
        if self.streaming or self.attempts > len(BACKOFF_SECONDS):
            self.forgotten = True
            return Do.GIVE_UP, now
        self.heard = False
        self._backing_off = False
        self._due = now
        return self.next(now, draw)

    def _send(self, now: float) -> tuple[Do, float]:
        self.attempts += 1
        self._backing_off = False
        self._due = now + FIRST_REPLY_SECONDS
        return Do.SEND, min(self._due, self.deadline)
