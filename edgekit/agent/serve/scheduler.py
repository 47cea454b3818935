"""What the model computes next, for prompts that share it. Pure.

A late prompt does not wait for a running answer: one slice of a prefill and one token of every
running answer take turns. Several prefills take turns too, so that a short one is not held up by a
long one. Where each answer's token costs a step of its own, requesters get as many steps as each
other, however many prompts they run. The length of a slice is the dial between prefills and
answers: it is the pause of the running answers, and shorter slices make a prefill slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLICE_TOKENS = 64  # the longest stretch in which a cancel is not seen
SHARED_SLICE_TOKENS = 32  # while answers run that wait for it


@dataclass(frozen=True, slots=True)
class Load:
    """A prompt in a slot.

    Attributes:
        slot: its number.
        remaining: tokens to be fed; none once it decodes.
        at_least: tokens that must go in at once.
        requester: whose it is.
    """

    slot: int
    remaining: int
    at_least: int = 0
    requester: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """One turn: feed so many tokens of a prompt to its slot, then one token of each of `step`."""

    feed: tuple[int, int] | None
    step: tuple[int, ...]


def slice_length(tokens: int, largest: int, smallest: int) -> int:
    """The first of balanced slices of at most `largest` tokens.

    A slice of one token goes through another kernel and gives other logits than any longer slice
    (up to 1.0 apart, measured), so none is below `smallest` unless the prompt itself is; where
    both cannot be had (`largest` < 2 * `smallest` - 1), `largest` gives way.
    """
    count = max(1, min(-(-tokens // largest), tokens // smallest))
    return -(-tokens // count)


def fair_steps(loads: Sequence[Load], turn: int) -> tuple[int, ...]:
    """The answers that get a token in this turn: of each requester as many as of the one that has
    the fewest, in turn."""
    lanes: dict[str, list[int]] = {}
    for load in loads:
        lanes.setdefault(load.requester, []).append(load.slot)
    share = min(map(len, lanes.values()), default=0)
    return tuple(
        lane[(turn * share + n) % len(lane)] for lane in lanes.values() for n in range(share)
    )


def next_work(
    loads: Sequence[Load], fed_last: int, min_slice: int, turn: int | None = None
) -> Work:
    """The next turn.

    Args:
        loads: of the prompts that run.
        fed_last: the slot that was fed last; the prefill after it in order is next.
        min_slice: of the decoder.
        turn: its number, where each answer takes a step of its own; None where one is for all.
    """
    answers = [load for load in loads if not load.remaining]
    all_slots = tuple(load.slot for load in answers)
    step = all_slots if turn is None else fair_steps(answers, turn)
    prefills = [load for load in loads if load.remaining]
    if not prefills:
        return Work(None, step)
    load = min(prefills, key=lambda load: (load.slot <= fed_last, load.slot))
    largest = SHARED_SLICE_TOKENS if step else SLICE_TOKENS
    count = max(load.at_least, slice_length(load.remaining, largest, min_slice))
    if load.remaining - count < min_slice:
        count = load.remaining
    return Work((load.slot, count), step)
