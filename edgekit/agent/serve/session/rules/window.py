"""What one rule takes of the messages that it hears: at which rate, and none twice. Pure."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from edgekit.core.protocol.wire import Inbound, traceparent_of
from edgekit.core.rules import message as rules
from edgekit.core.rules.message import HeardMessage
from edgekit.core.rules.rule import Rule

DIGEST_BYTES = 16
MAX_SEEN = 4096  # digests of one rule; the oldest go first

Fate = Literal[
    "taken",
    "retained",
    "too_large",
    "looped",
    "unreadable",
    "repeated",
    "left_out",
    "gave_way",
]
"""What becomes of a message that a rule hears. Without room in the window the new one is left out,
or an old one, which was taken, gives way; `drop_new` and `drop_oldest` say which."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that waits for its prompt; no digest where it cannot come again, at QoS 0."""

    message: HeardMessage
    digest: bytes
    hops: int
    traceparent: str


def digest_of(topic: str, payload: bytes) -> bytes:
    """What a message is known by: a redelivery has the same topic and payload."""
    return hashlib.sha256(topic.encode() + b"\0" + payload).digest()[:DIGEST_BYTES]


@dataclass(slots=True)
class RuleWindow:
    """The messages of one rule that become its next prompt.

    Without `window_seconds` a message is a prompt at once; where the rate does not allow one now,
    one message waits. With it, messages wait until the time is over and the rate allows it.
    """

    rule: Rule
    _waiting: deque[Taken] = field(default_factory=deque)
    _bytes: int = 0
    _opened_at: float = 0.0
    _next_at: float = float("-inf")  # when the rate allows the next prompt
    _seen: dict[bytes, float] = field(default_factory=dict)  # digest: when; the oldest first

    def hear(self, message: Inbound, now: float) -> list[Fate]:
        """Take a message, or say why not; say also which messages it pushes out."""
        fate = _unusable(message)
        if fate is not None:
            return [fate]
        # a broker delivers again at QoS 1 only (§4.3)
        digest = digest_of(message.topic, message.payload) if message.qos else b""
        if digest and self._was_seen(digest, now):
            return ["repeated"]
        heard = HeardMessage(message.topic, message.payload)
        fates: list[Fate] = ["taken"]
        while not self._has_room(heard):
            if self.rule.when_full == "drop_new":
                return ["left_out"]
            gone = self._waiting.popleft()
            self._bytes -= gone.message.size
            self._forget(gone.digest)
            fates.append("gave_way")
        if not self._waiting:
            self._opened_at = now
        self._waiting.append(Taken(heard, digest, rules.hops_of(message), traceparent_of(message)))
        self._bytes += heard.size
        if digest:
            self._remember(digest, now)
        return fates

    def due(self, now: float) -> bool:
        """Whether the messages that wait are a prompt now."""
        at = max(self._opened_at + self.rule.window_seconds, self._next_at)
        return bool(self._waiting) and now >= at

    def take(self, now: float) -> list[Taken]:
        """Return the messages that wait, the oldest first, and begin anew; the rate counts it."""
        taken, self._waiting, self._bytes = list(self._waiting), deque(), 0
        self._next_at = now + 60.0 / self.rule.per_minute
        return taken

    def restore(self, digests: bytes, at: float) -> None:
        """Take over what an earlier process knew: a prompt of these messages was made at `at`."""
        for digest in _each(digests):
            self._remember(digest, at)
        self._next_at = max(self._next_at, at + 60.0 / self.rule.per_minute)

    def forget(self, digests: bytes, at: float) -> None:
        """Take the messages of a prompt of `at` anew that is not answered, but equal later ones."""
        for digest in _each(digests):
            if self._seen.get(digest, inf) <= at:
                self._forget(digest)

    def _remember(self, digest: bytes, at: float) -> None:
        if not self.rule.repeat_seconds:
            return
        self._seen.pop(digest, None)
        self._seen[digest] = at
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]

    def _forget(self, digest: bytes) -> None:
        """Take a message anew that gave way: it is not answered, but where an equal one waits."""
        if all(one.digest != digest for one in self._waiting):
            self._seen.pop(digest, None)

    def _was_seen(self, digest: bytes, now: float) -> bool:
        since = now - self.rule.repeat_seconds
        while self._seen and self._seen[oldest := next(iter(self._seen))] <= since:
            del self._seen[oldest]
        return digest in self._seen

    def _has_room(self, heard: HeardMessage) -> bool:
        return (
            len(self._waiting) < (self.rule.window_messages if self.rule.window_seconds else 1)
            and self._bytes + heard.size <= rules.MAX_FILL_BYTES
        )


def _each(digests: bytes) -> Iterator[bytes]:
    return (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))


def _unusable(message: Inbound) -> Fate | None:
    """Why no rule takes a message; None for one that is usable."""
    if message.retain:  # an old value, which each subscribe would bring again
        return "retained"
    if len(message.payload) > rules.MAX_MESSAGE_BYTES:
        return "too_large"
    if rules.hops_of(message) >= rules.MAX_HOPS:
        return "looped"
    if rules.unreadable(message.payload):
        return "unreadable"
    return None
