"""Changes the logits before a token is chosen: bias, penalties, custom scoring.

Each change is a `LogitsProcessor`. `processors_for` gives their order: the order of Hugging Face
transformers' generation, with OpenAI's two penalties after the repetition penalty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekit.core.chat.sampling import Sampling

Logits = npt.NDArray[np.float32]


class LogitsProcessor(Protocol):
    """Changes the scores of one prompt's next token; it keeps state between calls."""

    def __call__(self, answer: Sequence[int], logits: Logits) -> None:
        """Change `logits` in place.

        Args:
            answer: token ids chosen so far, including those chosen since the last call.
            logits: float32, shape (vocabulary,); -inf forbids a token.
        """
        ...


ProcessorFactory = Callable[[Sampling, Sequence[int]], Sequence[LogitsProcessor]]


class LogitBias:
    """Adds a number to the logits of some tokens (OpenAI, `logit_bias`)."""

    def __init__(self, bias: dict[int, float]) -> None:
        self._ids = np.fromiter(bias.keys(), dtype=np.int64, count=len(bias))
        self._values = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))

    def __call__(self, answer: Sequence[int], logits: Logits) -> None:
        """Add the bias to the logits."""
        logits[self._ids] += self._values


class RepetitionPenalty:
    """Divides positive and multiplies negative logits of seen tokens (arXiv 1909.05858).

    The prompt's tokens count as seen.
    """

    def __init__(self, penalty: float, prompt: Sequence[int]) -> None:
        self._penalty = np.float32(penalty)
        self._known = set(prompt)
        self._seen = np.array(sorted(self._known), dtype=np.int64)
        self._taken = 0  # tokens of the answer that `_known` holds

    def __call__(self, answer: Sequence[int], logits: Logits) -> None:
        """Penalise the seen tokens."""
        new = set(answer[self._taken :]) - self._known
        self._taken = len(answer)
        if new:
            self._known |= new
            self._seen = np.append(self._seen, sorted(new))
        seen = logits[self._seen]
        with np.errstate(over="ignore"):  # the sampler clips infinite scores
            logits[self._seen] = np.where(seen > 0, seen / self._penalty, seen * self._penalty)


class CountPenalty:
    """Lowers the answer's tokens by `presence`, and by `frequency` for each occurrence.

    OpenAI's formula: logit - count * frequency - (count > 0) * presence. The prompt's tokens do not
    count.
    """

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence = presence
        self._frequency = frequency
        self._counts: Counter[int] = Counter()
        self._taken = 0

    def __call__(self, answer: Sequence[int], logits: Logits) -> None:
        """Lower the logits of the answer's tokens."""
        self._counts.update(answer[self._taken :])
        self._taken = len(answer)
        size = len(self._counts)
        ids = np.fromiter(self._counts.keys(), dtype=np.int64, count=size)
        counts = np.fromiter(self._counts.values(), dtype=np.float32, count=size)
        logits[ids] -= counts * np.float32(self._frequency) + np.float32(self._presence)


def processors_for(sampling: Sampling, prompt: Sequence[int]) -> list[LogitsProcessor]:
    """Return the processors that a prompt's fields ask for.

    Their order is bias, repetition, then presence and frequency.
    """
    chosen: list[LogitsProcessor] = []
    if sampling.logit_bias:
        chosen.append(LogitBias(sampling.logit_bias))
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenalty(sampling.repetition_penalty, prompt))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chosen.append(CountPenalty(sampling.presence_penalty, sampling.frequency_penalty))
    return chosen
