"""Which slot a prompt takes and how much of what is kept there it need not compute again. Pure.

An idle slot is a kept prefix: the tokens of the prompt and answer it ran last. Their owner may go
on from anywhere in them. To another requester they are secret, since the time to the first token
would tell whether a guess was right: only what both prompts' system messages have in common is
reused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

KEPT_WORTH = 0.5  # of a prefill: what forgetting a kept token costs, while it is fresh
KEPT_HALF_LIFE_SECONDS = 120.0  # a conversation that rests becomes less likely to go on

Tokens = Callable[[], Sequence[int]]  # asked for only where they decide: they cost 0.3 ms to find


def no_tokens() -> Sequence[int]:
    """None."""
    return ()


@dataclass(slots=True)
class Slot:
    """One of the decoder's slots.

    Attributes:
        number: of the slot.
        tokens: what it holds.
        requester: whose prompt that was.
        system: gives the tokens of its system message, and of the template before the next one.
        used_at: when it became idle, monotonic seconds.
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
    """A prompt that looks for a slot: its tokens, and the rest as in `Slot`."""

    tokens: Sequence[int]
    requester: str
    system: Tokens
    long_rope: bool = False


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def reusable(slot: Slot, wanted: Wanted, min_slice: int, can_truncate: bool) -> int:
    """How many of the slot's tokens the prompt may go on from.

    At least `min_slice` tokens are left to compute: the last one's logits are wanted, and a slice
    of one token gives others than a longer one.
    """
    if slot.long_rope != wanted.long_rope:
        return 0
    common = common_length(slot.tokens, wanted.tokens)
    if common and slot.requester != wanted.requester:
        system = wanted.system()
        # some templates have the system message elsewhere than at the beginning
        shared = min(common_length(slot.system(), system), common_length(system, wanted.tokens))
        common = min(common, shared)
    common = max(0, min(common, len(wanted.tokens) - min_slice))
    return common if can_truncate or common == len(slot.tokens) else 0


def choose_slot(
    idle: Iterable[Slot], wanted: Wanted, now: float, min_slice: int, can_truncate: bool
) -> tuple[Slot, int]:
    """The slot that costs least and how many of its tokens stay; `idle` is not empty.

    A slot costs the tokens to compute now, and a share of what is forgotten: it may be asked for
    again. Among equals the one that rested longest.
    """

    def cost(slot: Slot) -> tuple[float, float]:
        kept = reusable(slot, wanted, min_slice, can_truncate)
        fresh = 0.5 ** ((now - slot.used_at) / KEPT_HALF_LIFE_SECONDS)
        forgotten = (len(slot.tokens) - kept) * KEPT_WORTH * fresh
        return len(wanted.tokens) - kept + forgotten, slot.used_at

    slot = min(idle, key=cost)
    return slot, reusable(slot, wanted, min_slice, can_truncate)
