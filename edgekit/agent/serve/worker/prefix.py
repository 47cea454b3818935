"""Chooses the slot for a prompt, and how many of the slot's kept tokens the prompt reuses. Pure.

An idle slot is a kept prefix: the tokens of the prompt and answer that it ran last. The requester
that sent this prompt may go on from anywhere in them. They are secret from other requesters, since
the time to the first token would tell whether a guess was right. Another requester's prompt reuses
only the tokens that both prompts' system messages have in common.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

import msgspec

from edgekit.agent.serve.worker.answer.text import role_of
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import Value

KEPT_WORTH = 0.5  # the cost of forgetting a fresh token, as a share of its prefill
KEPT_HALF_LIFE_SECONDS = 120.0  # a resting conversation grows less likely to go on

SYSTEM_ROLES = ("system", "developer")
MAX_SYSTEM_MESSAGES = 64  # the tokens of so many are remembered

Tokens = Callable[[], Sequence[int]]  # called only when needed: finding them costs 0.3 ms


def no_tokens() -> Sequence[int]:
    """Return no tokens."""
    return ()


class Systems:
    """The tokens of system messages, remembered.

    Args:
        encode: turns a chat into a prompt's tokens.
    """

    def __init__(
        self, encode: Callable[[Sequence[Turn], Sequence[Value], Value], Sequence[int]]
    ) -> None:
        self._encode = encode
        self._known: OrderedDict[bytes, Sequence[int]] = OrderedDict()

    def of(self, messages: Sequence[Turn], tools: Sequence[Value], options: Value) -> Tokens:
        """Return what finds the tokens of a prompt's tools and leading system messages."""
        leading = tuple(takewhile(lambda turn: role_of(turn) in SYSTEM_ROLES, messages))
        return partial(self.tokens, leading, tools, options)

    def tokens(
        self, system: Sequence[Turn], tools: Sequence[Value], options: Value
    ) -> Sequence[int]:
        """Return the tokens that depend on tools, options and the leading system messages alone.

        Two prompts whose user messages begin with different letters show where these tokens end: a
        token across that border occurs in only one of the two.
        """
        key = msgspec.msgpack.encode((system, tools, options))
        known = self._known.pop(key, None)
        if known is None:
            try:
                probes = [self._encode([*system, ("user", x)], tools, options) for x in "aZ"]
                known = probes[0][: common_length(*probes)]
            except Exception:  # the template needs more messages: share nothing
                known = ()
        self._known[key] = known
        if len(self._known) > MAX_SYSTEM_MESSAGES:
            self._known.popitem(last=False)
        return known


@dataclass(slots=True)
class Slot:
    """One of the decoder's slots.

    Attributes:
        number: the slot's number.
        tokens: the tokens that it holds.
        requester: the requester that sent its prompt.
        system: returns the tokens of the prompt's system message, and of the template up to the
            next message.
        used_at: when the slot became idle, monotonic seconds.
        long_rope: whether its tokens were computed with LongRoPE's long factors.
    """

    number: int
    tokens: list[int] = field(default_factory=list)
    requester: str = ""
    system: Tokens = no_tokens
    used_at: float = 0.0
    long_rope: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prompt that needs a slot: its tokens; the other attributes are those of `Slot`."""

    tokens: Sequence[int]
    requester: str
    system: Tokens
    long_rope: bool = False


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix, in tokens."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def reusable(slot: Slot, wanted: Wanted, min_slice: int, can_truncate: bool) -> int:
    """Return how many of the slot's tokens the prompt may reuse.

    At least `min_slice` tokens are left to compute: the worker needs the last token's logits, and a
    slice of one token gives other logits than a longer one.
    """
    if slot.long_rope != wanted.long_rope:
        return 0
    common = common_length(slot.tokens, wanted.tokens)
    if common and slot.requester != wanted.requester:
        system = wanted.system()
        # some templates do not put the system message at the beginning
        shared = min(common_length(slot.system(), system), common_length(system, wanted.tokens))
        common = min(common, shared)
    common = max(0, min(common, len(wanted.tokens) - min_slice))
    return common if can_truncate or common == len(slot.tokens) else 0


def choose_slot(
    idle: Iterable[Slot], wanted: Wanted, now: float, min_slice: int, can_truncate: bool
) -> tuple[Slot, int]:
    """Return the slot that costs least, and how many of its tokens stay; `idle` is not empty.

    The cost is the tokens to compute now plus a share of the forgotten tokens, which a later prompt
    may need. Among equals the slot that rested longest is chosen.
    """

    def cost(slot: Slot) -> tuple[float, float]:
        kept = reusable(slot, wanted, min_slice, can_truncate)
        fresh = 0.5 ** ((now - slot.used_at) / KEPT_HALF_LIFE_SECONDS)
        forgotten = (len(slot.tokens) - kept) * KEPT_WORTH * fresh
        return len(wanted.tokens) - kept + forgotten, slot.used_at

    slot = min(idle, key=cost)
    return slot, reusable(slot, wanted, min_slice, can_truncate)
