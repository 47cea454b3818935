"""Computes the slots, their length and the beams that fit into a device's free memory."""

from __future__ import annotations

import msgspec

from edgekit import memory
from edgekit.errors import EdgekitError

MAX_SLOTS = 4  # prompts share one model: with more slots they wait less and run slower
SPARE_SHARE = 0.5  # of the free memory, kept for everything except KV
ALONE_SPARE_SHARE = 0.2  # the same, when there is only one slot
MIN_LENGTH = 512  # tokens of a slot: a shorter one leaves too little room for answers


class OutOfMemoryError(EdgekitError):
    """The device has no room for the shortest slot."""

    retryable = True


class Room(msgspec.Struct, frozen=True):
    """How many slots fit, and how many tokens each of them holds."""

    slots: int
    length: int


def room_for(
    token_bytes: int, max_length: int, free_bytes: int, slots: int = 0, *, least: int = 0
) -> Room:
    """Return the slots that fit into the free memory.

    If not even one slot of `max_length` fits, there is one shorter slot: half as long, a quarter
    and so on, down to `MIN_LENGTH`.

    Args:
        token_bytes: bytes of one token's keys and values.
        max_length: tokens of a slot, if the memory allows it.
        free_bytes: the free memory once the model is loaded, in bytes.
        slots: how many slots, if at least one fits; 0 takes as many as fit.
        least: tokens that a slot holds in any case: the model's sliding window.

    Raises:
        OutOfMemoryError: the shortest slot does not fit.
    """
    asked, max_length = max_length, max(max_length, least)
    most = int(free_bytes * (1 - ALONE_SPARE_SHARE)) // max(1, token_bytes)  # tokens of one slot
    if most >= max_length:
        fitting = int(free_bytes * (1 - SPARE_SHARE)) // max(1, token_bytes * max_length)
        return Room(slots or max(1, min(MAX_SLOTS, fitting)), max_length)
    shortest = max(min(MIN_LENGTH, asked), least)
    if most < shortest:
        name = "the model's sliding window" if least == shortest else "the shortest context"
        raise OutOfMemoryError(
            "this device has too little free memory to answer",
            f"{_mb(free_bytes)} are free once the model is loaded; "
            f"{name}, {shortest} tokens, takes {_mb(token_bytes * shortest)} of keys "
            f"and values, and {ALONE_SPARE_SHARE:.0%} of what is free stays spare",
            "end other programs on the device, or build a smaller model",
        )
    length = max_length
    while length > most:
        length = max(shortest, length // 2)
    return Room(1, length)


def beams_for(beam_bytes: int, free_bytes: int) -> int:
    """Return how many beams of `beam_bytes` each fit into `free_bytes`; it may be 0."""
    return int(free_bytes * (1 - SPARE_SHARE)) // max(1, beam_bytes)


def free_bytes() -> int:
    """Return the bytes this process can still use; 0 where nobody says it."""
    return memory.free_bytes() or 0


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
