"""Log-probabilities of an answer's tokens, as OpenAI's `choices[0].logprobs`.

A token's log-probability is the log-softmax of the model's logits: over its whole vocabulary, or
over the tokens that a grammar allows. Bias, penalties and temperature do not change it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_TOP = 20  # as at OpenAI
MAX_BYTES = 256 * 1024  # of an answer's log-probabilities, which the final repeats
TYPICAL_BYTES = 80  # of one token in JSON: its text, its bytes and a number
NEVER = -9999.0  # OpenAI's number for a token that cannot come: JSON has no infinity


def most_tokens(top: int) -> int:
    """Return how many tokens an answer may have whose log-probabilities are asked for."""
    return MAX_BYTES // (TYPICAL_BYTES * (1 + top))


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that could have come. `bytes` are those of its text in UTF-8, null if it has none."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the likeliest tokens in its place, likeliest first."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class Logprobs(msgspec.Struct, frozen=True):
    """The tokens of a choice in their order, those of reasoning and of tool calls among them."""

    content: Sequence[TokenLogprob]
    refusal: None = None  # OpenAI's name for a text that no model here writes
