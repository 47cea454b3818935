"""Walks a sample under this model in idle time, and lets the model answer its prompt greedily.

The same walk makes the old release's baseline and compares the new release with it. It is broken
off between two tokens when anything else is to be done; then nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgekit.agent.serve.pipe import SLICE_TOKENS, Walk, WalkBroken, WalkEnded
from edgekit.agent.serve.worker.decoder import Decoder, Limits, Logits
from edgekit.agent.serve.worker.prefix import Slot, no_tokens
from edgekit.core.quality import MAX_NATS, TOP, TopTokens

Values = npt.NDArray[np.float64]
DECIMALS = 3  # of log-probabilities, in nats


class WalkBrokenError(Exception):
    """Something else is to be done first."""


def fits(walk: Walk, limits: Limits) -> bool:
    """Whether a slot can hold the walk, and the model computes all of it in the same way."""
    longest = max(len(walk.tokens), walk.start + walk.answer_limit)
    rope = limits.rope_threshold or limits.max_length
    return walk.start >= max(limits.min_slice, 1) and longest <= min(limits.max_length, rope)


def walk_idle(
    walk: Walk,
    idle: Sequence[Slot],
    decoder: Decoder,
    ends: frozenset[int],
    broken: Callable[[], bool],
    clock: Callable[[], float],
) -> WalkEnded | WalkBroken:
    """Walk a sample in an empty slot, or the one that rested longest.

    Any message breaks the walk off. If it has come before, the slot keeps its prefix.

    Args:
        walk: the sample.
        idle: the slots, at least one; all of them rest.
        decoder: computes it.
        ends: tokens that end an answer.
        broken: whether a message has come.
        clock: monotonic seconds.
    """
    slot = min(idle, key=lambda each: (bool(each.tokens), each.used_at))
    rested = not slot.tokens or clock() - slot.used_at >= walk.rest_seconds
    if not fits(walk, decoder.limits):
        return WalkEnded(walk.key)
    if not rested or broken():
        return WalkBroken(walk.key)
    slot.tokens, slot.requester, slot.system, slot.long_rope = [], "", no_tokens, False
    try:
        return run_walk(walk, decoder, slot.number, ends, broken)
    except WalkBrokenError:
        return WalkBroken(walk.key)


def run_walk(
    walk: Walk,
    decoder: Decoder,
    slot: int,
    ends: frozenset[int],
    broken: Callable[[], bool] = lambda: False,
) -> WalkEnded:
    """Walk a sample in an idle slot, which is emptied before and after.

    Args:
        walk: the tokens, and what is asked of them.
        decoder: computes them.
        slot: number of a slot that nothing needs.
        ends: tokens that end an answer.
        broken: whether something else is to be done first; asked before each computation.

    Raises:
        WalkBrokenError: `broken` said so.
    """
    best: list[int] = []
    tops: list[TopTokens] = []
    answer: list[int] = []
    answer_tops: list[TopTokens] = []
    try:
        logits = _prefill(decoder, slot, walk.tokens[: walk.start], broken)
        first = logits
        for place, token in enumerate(walk.tokens[walk.start :]):
            wanted = walk.wanted[place] if walk.wanted else None
            values = _logprobs(logits)
            best.append(int(values.argmax()))
            tops.append(_top(values, wanted))
            if walk.start + place + 1 < len(walk.tokens):
                logits = _step(decoder, slot, token, broken)
        if walk.answer_limit and len(walk.tokens) > walk.start:
            if decoder.limits.can_truncate:
                decoder.truncate(slot, walk.start)
            else:
                first = _prefill(decoder, slot, walk.tokens[: walk.start], broken)
        logits = first
        while len(answer) < walk.answer_limit:
            values = _logprobs(logits)
            token = int(values.argmax())
            answer.append(token)
            answer_tops.append(_top(values, None))
            if token in ends or len(answer) == walk.answer_limit:
                break
            logits = _step(decoder, slot, token, broken)
    finally:
        decoder.truncate(slot, 0)
    return WalkEnded(walk.key, best, tops, answer, answer_tops)


def _prefill(
    decoder: Decoder, slot: int, tokens: Sequence[int], broken: Callable[[], bool]
) -> Logits:
    """Put a prompt into an empty slot, slice by slice."""
    decoder.truncate(slot, 0)
    least, done = decoder.limits.min_slice, 0
    while True:
        if broken():
            raise WalkBrokenError
        left = len(tokens) - done
        size = min(SLICE_TOKENS, left)
        if 0 < left - size < least:
            size = left - least
        logits = decoder.extend(slot, tokens[done : done + size])
        done += size
        if done == len(tokens):
            return logits.copy()


def _step(decoder: Decoder, slot: int, token: int, broken: Callable[[], bool]) -> Logits:
    if broken():
        raise WalkBrokenError
    return decoder.step({slot: token})[slot]


def _logprobs(logits: Logits) -> Values:
    """Log-probabilities in nats; what is no number is impossible."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values)] = -np.inf
    highest = values.max()
    if not np.isfinite(highest):
        return np.full_like(values, -MAX_NATS)
    values = values - highest
    found: Values = np.maximum(values - np.log(np.exp(values).sum()), -MAX_NATS)
    return found


def _top(values: Values, wanted: Sequence[int] | None) -> TopTokens:
    """The wanted tokens, or the most likely ones, best first."""
    if wanted is None:
        count = min(TOP, len(values))
        found = np.argpartition(-values, count - 1)[:count]
        wanted = [int(token) for token in found[np.argsort(-values[found], kind="stable")]]
    return TopTokens(list(wanted), [round(float(values[token]), DECIMALS) for token in wanted])
