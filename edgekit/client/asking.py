"""How long to wait for an answer, when to send a prompt again, when to ask what became of it. Pure.

The rules are those of docs/protocol, "What a requester does".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FIRST_REPLY_SECONDS = 15.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0)  # between the end of that wait and sending again
JITTER = 0.2
SILENCE_SECONDS = 15.0  # after the first reply, until it is asked what became of the prompt


class Do(Enum):
    """What to do when the wait is over."""

    SEND = "send the prompt"
    QUERY = "ask what became of it"
    GIVE_UP = "nobody answers"


@dataclass(slots=True)
class Asking:
    """One prompt, seen by its requester.

    Args:
        deadline: of the prompt, in seconds of the clock that `now` is of.
        device: the one that is asked, or empty for a pool's.
    """

    deadline: float
    device: str = ""
    attempts: int = 0
    heard: bool = False  # any reply came
    streaming: bool = False  # a delta came: never sent again
    forgotten: bool = False  # by a device that had it
    _due: float = 0.0
    _backing_off: bool = False

    def next(self, now: float, draw: float) -> tuple[Do | None, float]:
        """What is due, and until when to wait for a message.

        Args:
            now: seconds.
            draw: uniform in [0, 1), for the jitter.
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
        """Why it is given up."""
        if self.forgotten:
            return "it knows nothing of the prompt any more"
        if self.heard:
            return "it has the prompt, and its answer did not come in time"
        return f"no reply to {self.attempts} attempts within the time there was"

    def concerns(self, device: str, kind: str) -> bool:
        """Whether a message is of the answer that is followed.

        A pool's prompt that was sent twice may run on two devices: of the other one only a final
        is of use.
        """
        return not self.heard or device in ("", self.device) or kind == "final"

    def reply(self, device: str, now: float, *, delta: bool = False) -> None:
        """A reply came, from this device."""
        self.heard = True
        self.device = device or self.device
        self.streaming = self.streaming or delta
        self._due = now + SILENCE_SECONDS

    def unknown(self, now: float, draw: float) -> tuple[Do | None, float]:
        """The device does not know the prompt, though it said `accepted`: its disk is a new one.

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
