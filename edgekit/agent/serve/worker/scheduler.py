"""What the model computes next, for prompts that share it. Pure.

The model works in quanta. A quantum belongs to one requester, which `shares` names: one slice of a
prefill and one token of its running answer. So a late prompt does not wait for a running answer,
and a short prefill is not held up by a long one. The length of a slice is the dial between prefills
and answers: running answers pause for one slice, and shorter slices make a prefill slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.agent.serve.pipe import SLICE_TOKENS

SHARED_SLICE_TOKENS = 32  # while answers run that wait for it


@dataclass(frozen=True, slots=True)
class Load:
    """A prompt in a slot.

    Attributes:
        slot: its number.
        remaining: tokens to be fed; none once it decodes.
        at_least: tokens that must go in at once.
        requester: whose it is.
        quantum: the number of the one in which something of it was computed last.
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
    """The first of balanced slices of at most `largest` tokens.

    A slice of one token goes through another kernel and gives other logits than any longer slice
    (up to 1.0 apart, measured), so none is below `smallest` unless the prompt itself is; where
    both cannot be had (`largest` < 2 * `smallest` - 1), `largest` gives way.
    """
    count = max(1, min(-(-tokens // largest), tokens // smallest))
    return -(-tokens // count)


def longest_ago(load: Load) -> tuple[int, int]:
    """Sorts by when something was computed of it last."""
    return load.quantum, load.slot


def next_work(loads: Sequence[Load], min_slice: int, whose: str, batched: bool = False) -> Work:
    """Return the work of the next quantum.

    Args:
        loads: of the prompts that run.
        min_slice: of the decoder.
        whose: the requester whose quantum it is.
        batched: whether a token of every answer costs one step, which is for all requesters then.
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
