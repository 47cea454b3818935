"""Decides what the model computes next, for prompts that share it. Pure.

The model works in quanta. `shares` gives each quantum to one requester: one slice of a prefill and
one token of its running answer. So a late prompt does not wait for a running answer, and a long
prefill does not hold up a short one. The length of a slice balances prefills against answers:
running answers pause for one slice, and shorter slices make a prefill slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.agent.serve.pipe import SLICE_TOKENS

SHARED_SLICE_TOKENS = 32  # tokens of a slice while running answers wait for it


@dataclass(frozen=True, slots=True)
class Load:
    """A prompt in a slot.

    Attributes:
        slot: the slot's number.
        remaining: tokens that are still to feed; 0 once the prompt decodes.
        at_least: tokens that must go in as one slice.
        requester: the requester that sent the prompt.
        quantum: the number of the last quantum that computed a part of this prompt.
    """

    slot: int
    remaining: int
    at_least: int = 0
    requester: str = ""
    quantum: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One quantum: tokens of a prompt to feed to its slot, then a token for each slot of `step`."""

    feed: tuple[int, int] | None
    step: tuple[int, ...]


def slice_length(tokens: int, largest: int, smallest: int) -> int:
    """Return the length of the next slice, of balanced slices of at most `largest` tokens.

    A slice of one token goes through another kernel and gives other logits than any longer slice
    (up to 1.0 apart, measured). So no slice is below `smallest` unless the prompt itself is. If
    both bounds cannot hold (`largest` < 2 * `smallest` - 1), a slice may exceed `largest`.
    """
    count = max(1, min(-(-tokens // largest), tokens // smallest))
    return -(-tokens // count)


def longest_ago(load: Load) -> tuple[int, int]:
    """Sort key: the prompt that the model computed longest ago comes first."""
    return load.quantum, load.slot


def next_work(loads: Sequence[Load], min_slice: int, whose: str, batched: bool = False) -> Work:
    """Return the work of the next quantum.

    Args:
        loads: the loads of the running prompts.
        min_slice: the decoder's shortest slice, in tokens.
        whose: the requester that has this quantum.
        batched: whether one step computes a token of every answer; then each quantum steps the
            answers of all requesters.
    """
    answers = [load for load in loads if not load.remaining]
    paused = bool(answers)
    alone = all(load.requester == whose for load in loads)
    if not alone and not batched:
        own = [load for load in answers if load.requester == whose]
        answers = [min(own, key=longest_ago)] if own else []
    step = tuple(load.slot for load in answers)
    prefills = [load for load in loads if load.remaining and load.requester == whose]
    if not prefills:
        return Work(None, step)
    load = min(prefills, key=longest_ago)
    largest = SHARED_SLICE_TOKENS if paused else SLICE_TOKENS
    count = max(load.at_least, slice_length(load.remaining, largest, min_slice))
    if load.remaining - count < min_slice:
        count = load.remaining
    return Work((load.slot, count), step)
