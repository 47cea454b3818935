"""Chooses a token from logits.

The steps, in order: logit bias, repetition penalty, presence and frequency penalty, custom
processors; then arg-max at temperature 0, else temperature, top-k, top-p, min-p and a draw by the
seed. From the temperature on this is the order of Hugging Face transformers' generation. Min-p is
relative to the likeliest token, so its place in the order changes only the last cut.

A grammar is asked about the token that was drawn, which is far cheaper than a mask of the whole
vocabulary. Where it refuses that token, another one is drawn without the refused ones, a few times;
only then a mask is made, and the draws go on among what it allows. The arg-max and the
probabilities are those of a mask at once. Draws without replacement are an order of all tokens in
which the next one is drawn by weight among those that are left (Plackett-Luce), and such an order
is that of independent exponential times with the weights as their rates. So the first token of the
allowed set A is the earliest of A's times: it is t with probability p(t) / p(A), whatever else was
drawn before. The number of draws before the mask changes nothing, as a mask takes away what would
be refused.

Top-k, top-p and min-p cut before the grammar is asked, as in llama.cpp's server, and the draw is
among what is left of the cut. If the grammar allows nothing of it, the cut is made once more, among
what the grammar allows.

The sampler does not sort the vocabulary: a few passes find the tokens that carry top-p's mass, and
it sorts only those.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekit.agent.serve.worker.grammar.guide import Allowed, GrammarError
from edgekit.agent.serve.worker.processors import Logits, LogitsProcessor, processors_for
from edgekit.core.chat.sampling import Sampling

MIN_TEMPERATURE = 1e-6  # below it float32 divides by zero; the arg-max has all mass long before
LARGEST = np.float32(1e30)
PLAIN = (1e-20, 1e30)  # bounds of a sum of exponentials that float32 holds precisely enough
NOTHING = np.float32(-80.0)  # an exponent that adds nothing to 1; below it exp2 is 10x slower
CUTS = (1e-4, 1e-6, 0.0)  # shares; a story has 70 tokens above the first on average, at most 250
BLOCKS = 64  # rows whose column maxima bound the k-th largest logit


def _exponential() -> tuple[np.ufunc, float]:
    """Return numpy's faster exponential on this CPU, and the factor for its argument.

    With AVX-512 exp2 takes half of exp's time (11 and 22 us for 49,152 values). numpy has vector
    code for exp on more CPUs.
    """
    vectors = np.lib.introspect.opt_func_info(func_name="^exp2$", signature="float32")
    fast = any("baseline" not in how["current"] for how in vectors.get("exp2", {}).values())
    return (np.exp2, float(np.log2(np.e))) if fast else (np.exp, 1.0)


EXP, EXP_SCALE = _exponential()

Ids = npt.NDArray[np.intp]
FEW = 4  # one token of so many: looking at these alone is faster
TRIES = 4  # tokens that a grammar is asked about one by one before it makes a mask


class Bound(Protocol):
    """What a token must fit: a grammar's state."""

    def take(self, token: int) -> bool:
        """Go on with the token if it may come next; return whether it may."""
        ...

    def allowed(self) -> Allowed:
        """Return of each token whether it may come next, shape (vocabulary,); the caller's own."""
        ...


class Sampler:
    """Chooses tokens for one prompt; its random state starts at the prompt's seed.

    Args:
        sampling: the prompt's sampling fields.
        prompt: the prompt's tokens, for the repetition penalty.
        processors: custom processors, which run after the prompt's own.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)
        self._processors = [*processors_for(sampling, prompt), *processors]
        self._answer: list[int] = []
        self._scratch = np.empty(0, dtype=np.float32)
        self._plain = True  # until exponentials of the bare logits leave float32's range

    def choose(self, logits: Logits, bound: Bound | None = None) -> int:
        """Return the next token id.

        Args:
            logits: float32, shape (vocabulary,); left unchanged.
            bound: takes the token; None takes any.

        Raises:
            GrammarError: as `bound`.
        """
        scores = self._scored(logits)
        token = self._pick(scores) if bound is None else self._within(scores, logits, bound)
        self._answer.append(token)
        return token

    def _scored(self, logits: Logits) -> Logits:
        if not self._processors:
            return logits
        logits = logits.copy()
        for process in self._processors:
            process(self._answer, logits)
        return np.clip(logits, None, LARGEST, out=logits)  # a penalty may have made one infinite

    def _pick(self, scores: Logits) -> int:
        return next(self._draws(scores), 0)  # processors may have forbidden every token

    def _draws(self, scores: Logits) -> Draws:
        if self._sampling.temperature > 0 and not (self._processors and _all_forbidden(scores)):
            return Draws(*self._cut(scores), self._rng)
        return Draws(scores, None, None)

    def _within(self, scores: Logits, logits: Logits, bound: Bound) -> int:
        """Choose among what the bound allows; it may still refuse what no mask knows of."""
        draws, tried = self._draws(scores), []
        for token in islice(draws, TRIES):
            if bound.take(token):
                return token
            tried.append(token)
        allowed = bound.allowed()
        allowed[tried] = False
        draws.keep(allowed)
        for token in draws:
            if bound.take(token):
                return token
            allowed[token] = False
        while allowed.any():
            token = self._pick_allowed(scores, logits, allowed)
            if bound.take(token):
                return token
            allowed[token] = False
        raise GrammarError("no token can go on with this grammar")

    def _pick_allowed(self, scores: Logits, logits: Logits, allowed: Allowed) -> int:
        narrowed, ids = _narrowed(scores, allowed)
        at = self._pick(narrowed)
        token = at if ids is None else int(ids[at])
        if not allowed[token]:  # at the edge of a float's precision
            token = int(np.where(allowed, logits, -np.inf).argmax())
        return token

    def skip(self, tokens: Sequence[int]) -> None:
        """Note tokens of the answer that were not chosen: a grammar forced them."""
        self._answer += tokens

    def _cut(self, logits: Logits) -> tuple[Logits, Ids | None]:
        """Return the weights of the tokens that may be drawn, and these; None: all tokens."""
        s = self._sampling
        ids: Ids | None = None  # None: the whole vocabulary
        if s.top_k:
            ids = largest(logits, s.top_k)
            logits = logits[ids]
        weights, mass = self._weigh(logits)
        if s.top_p < 1.0:
            kept = _nucleus(weights, mass, s.top_p)
            ids = kept if ids is None else ids[kept]
            weights = weights[kept]
        if s.min_p > 0.0:
            likely = np.flatnonzero(weights >= np.float32(s.min_p) * weights.max())
            ids = likely if ids is None else ids[likely]
            weights = weights[likely]
        return weights, ids

    def _weigh(self, logits: Logits) -> tuple[Logits, float]:
        """Return softmax's weights before the division, and the sum to divide by.

        Finding and subtracting the largest logit are two of six passes over the vocabulary, so
        only a prompt whose logits need them pays for them.
        """
        if self._scratch.shape != logits.shape:
            self._scratch = np.empty_like(logits)
        weights = self._scratch
        scale = np.float32(EXP_SCALE / max(self._sampling.temperature, MIN_TEMPERATURE))
        if self._plain:
            np.multiply(logits, scale, out=weights)
            mass = _exponentiate(weights)
            self._plain = PLAIN[0] < mass < PLAIN[1]
        if not self._plain:
            np.subtract(logits, logits.max(), out=weights)
            np.multiply(weights, scale, out=weights)
            np.maximum(weights, NOTHING, out=weights)
            mass = _exponentiate(weights)
        return weights, mass


class Draws:
    """Tokens one after the other, none twice: by weight, or the largest score first.

    Args:
        scores: of each token its weight, or without `rng` its score. Weights change.
        ids: the tokens; None: all of the vocabulary.
        rng: draws by weight; None: the largest score comes first.
    """

    def __init__(self, scores: Logits, ids: Ids | None, rng: np.random.Generator | None) -> None:
        self._scores = scores
        self._ids = ids
        self._rng = rng
        self._nothing = np.float32(0 if rng else -np.inf)  # the score of a token that is gone
        self._shared = rng is None  # the scores are the model's, too
        self._at = -1  # the last token's place

    def __iter__(self) -> Draws:
        """Return itself."""
        return self

    def __next__(self) -> int:
        """Return the next token; raises StopIteration behind the last one that may come."""
        if self._at >= 0:
            self._remove(self._at)
        at = -1 if self._rng is None else _pick(self._scores, self._rng.random())
        if at < 0 or not self._scores[at] > 0:  # by a rounding it may be one that is gone
            at = int(self._scores.argmax())
            if not self._scores[at] > max(self._nothing, -LARGEST):
                raise StopIteration
        self._at = at
        return at if self._ids is None else int(self._ids[at])

    def keep(self, allowed: Allowed) -> None:
        """Take away all tokens but these."""
        self._remove(np.flatnonzero(~(allowed if self._ids is None else allowed[self._ids])))

    def _remove(self, places: int | Ids) -> None:
        if self._shared:
            self._scores, self._shared = self._scores.copy(), False
        self._scores[places] = self._nothing
        self._at = -1


def _all_forbidden(scores: Logits) -> bool:
    return not scores.max() > -LARGEST


def _narrowed(logits: Logits, allowed: Allowed) -> tuple[Logits, Ids | None]:
    """Return the logits of the few allowed tokens, and these; or all, where the others are -inf."""
    if np.count_nonzero(allowed) * FEW < allowed.size:
        ids = np.flatnonzero(allowed)
        return logits[ids], ids
    logits = logits.copy()
    logits[np.flatnonzero(~allowed)] = -np.inf
    return logits, None


def _exponentiate(weights: Logits) -> float:
    """Exponentiate in place; return the sum."""
    with np.errstate(over="ignore"):
        EXP(weights, out=weights)
    return float(np.einsum("i->", weights))  # half of sum's time, as exact in float32


def _nucleus(weights: Logits, mass: float, top_p: float) -> Ids:
    """Return the smallest set of tokens with at least `top_p` of the mass, likeliest first."""
    wanted = top_p * mass
    for cut in CUTS:  # sort only the heaviest tokens that hold enough mass
        heavy = np.flatnonzero(weights >= np.float32(cut * mass))
        scores = weights[heavy]
        order = np.argsort(-scores, kind="stable")
        reached = np.cumsum(scores[order], dtype=np.float64)
        if reached.size and reached[-1] > wanted:
            break
    return heavy[order[: int(np.searchsorted(reached, wanted)) + 1]]


def largest(logits: Logits, k: int) -> Ids:
    """Return the `k` tokens with the largest logits, largest first; equal ones in order of id."""
    if not k:
        return np.empty(0, dtype=np.intp)
    ids = np.flatnonzero(logits >= _at_most_kth(logits, k))
    return ids[np.argsort(-logits[ids], kind="stable")[:k]]


def _at_most_kth(logits: Logits, k: int) -> np.float32:
    """Return a bound that at least `k` logits reach: the k-th largest of the column maxima."""
    columns = logits.shape[0] // BLOCKS
    if columns < k:
        return np.float32(-np.inf)
    maxima = logits[: BLOCKS * columns].reshape(BLOCKS, columns).max(axis=0)
    bound: np.float32 = np.partition(maxima, columns - k)[columns - k]
    return bound


def _pick(weights: Logits, uniform: float) -> int:
    """Draw an index by weight; in blocks, since a running sum in float64 is slow."""
    size = len(weights)
    if size < 2 * BLOCKS * BLOCKS:
        return _search(np.cumsum(weights, dtype=np.float64), uniform)
    starts = np.arange(0, size, BLOCKS)
    sums = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    block = _search(sums, uniform)
    before = sums[block - 1] if block else 0.0
    inside = np.cumsum(weights[block * BLOCKS : (block + 1) * BLOCKS], dtype=np.float64)
    at = int(np.searchsorted(inside, uniform * sums[-1] - before, side="right"))
    return block * BLOCKS + min(at, len(inside) - 1)


def _search(mass: npt.NDArray[np.float64], uniform: float) -> int:
    at = int(np.searchsorted(mass, uniform * mass[-1], side="right"))
    return min(at, len(mass) - 1)
