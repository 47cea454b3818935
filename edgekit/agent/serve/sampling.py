"""From logits to a token: greedy, repetition penalty, temperature, top-k, top-p, seed.

Order as in Hugging Face transformers' generation: penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekit.core.chat import Sampling

MIN_TEMPERATURE = 1e-6  # below it float32 divides by zero; the arg-max has all the mass long before
CANDIDATES = 1024  # a sorted head of this size holds any usual top-p; the rest is the slow path

Logits = npt.NDArray[np.float32]


class Sampler:
    """Chooses tokens for one prompt; its random state starts at the prompt's seed."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)
        self._seen = np.unique(np.asarray(prompt, dtype=np.int64))

    def choose(self, logits: Logits) -> int:
        """The next token id. `logits`: float32, shape (vocabulary,); it is not changed."""
        s = self._sampling
        if s.repetition_penalty != 1.0:
            logits = self._penalised(logits)
        token = int(logits.argmax()) if s.temperature == 0 else self._draw(logits)
        if s.repetition_penalty != 1.0 and token not in self._seen:
            self._seen = np.append(self._seen, token)
        return token

    def _penalised(self, logits: Logits) -> Logits:
        """Divide positive and multiply negative logits of seen tokens (arXiv 1909.05858)."""
        logits = logits.copy()
        seen = logits[self._seen]
        penalty = np.float32(self._sampling.repetition_penalty)
        logits[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        return logits

    def _draw(self, logits: Logits) -> int:
        s = self._sampling
        size = logits.shape[0]
        temperature = np.float32(max(s.temperature, MIN_TEMPERATURE))
        head = min(s.top_k or size, size)
        if head == size and s.top_p < 1.0:
            head = min(CANDIDATES, size)
        while True:
            if head < size:
                ids = np.argpartition(logits, size - head)[size - head :]
                scores = logits[ids]
            else:
                ids, scores = None, logits
            scaled = (scores - scores.max()) / temperature
            weights = np.exp(scaled, dtype=np.float32)
            if s.top_p >= 1.0:
                return _pick(weights, ids, self._rng.random())
            total = float(weights.sum())
            if not s.top_k and head < size:
                # top-p is a share of the whole vocabulary, not of the head
                rest = (logits - scores.max()) / temperature
                total = float(np.exp(rest, dtype=np.float32).sum())
            order = np.argsort(-weights, kind="stable")
            mass = np.cumsum(weights[order], dtype=np.float64)
            if mass[-1] < s.top_p * total and not s.top_k and head < size:
                head = size
                continue
            kept = order[: int(np.searchsorted(mass, s.top_p * total)) + 1]
            return _pick(weights[kept], kept if ids is None else ids[kept], self._rng.random())


def _pick(weights: Logits, ids: npt.NDArray[np.intp] | None, uniform: float) -> int:
    mass = np.cumsum(weights, dtype=np.float64)
    at = min(int(np.searchsorted(mass, uniform * mass[-1], side="right")), len(mass) - 1)
    return at if ids is None else int(ids[at])
