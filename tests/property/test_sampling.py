"""The sampler against a naive one in float64 that follows Hugging Face transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.worker.grammar.guide import GrammarError
from edgekit.agent.serve.worker.sampling import BLOCKS, TRIES, Sampler
from edgekit.core.chat.sampling import Sampling

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
SIZE = 5003  # of a vocabulary; no multiple of anything
STEPS = 2000  # of the uniform number: a token of probability p is drawn STEPS * p times, +- 1
Logits = npt.NDArray[np.float32]


def penalised(
    logits: Logits, sampling: Sampling, prompt: Sequence[int] = (), answer: Sequence[int] = ()
) -> dict[int, float]:
    """Scores by token after bias and penalties."""
    scores = {token: float(score) for token, score in enumerate(logits)}
    for token, bias in sampling.logit_bias.items():  # SequenceBiasLogitsProcessor
        scores[token] += bias
    for token in {*prompt, *answer}:  # RepetitionPenaltyLogitsProcessor
        score, penalty = scores[token], sampling.repetition_penalty
        scores[token] = score * penalty if score < 0 else score / penalty
    for token, count in Counter(answer).items():  # OpenAI's API reference
        scores[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    return scores


def naive(
    logits: Logits, sampling: Sampling, prompt: Sequence[int] = (), answer: Sequence[int] = ()
) -> tuple[dict[int, float], float]:
    """Probabilities by token, and how close a cut came to another choice of tokens."""
    scores = penalised(logits, sampling, prompt, answer)
    scores = {t: s / sampling.temperature for t, s in scores.items()}  # TemperatureLogitsWarper
    ranked = sorted(scores, key=lambda t: -scores[t])
    if sampling.top_k:  # TopKLogitsWarper
        ranked = ranked[: sampling.top_k]
    weights = np.exp(np.array([scores[t] for t in ranked]) - scores[ranked[0]])
    shares = weights / weights.sum()
    before = np.concatenate([[0.0], np.cumsum(shares)[:-1]])
    if sampling.top_p < 1.0:  # TopPLogitsWarper: kept until the mass reaches top_p
        count = int((before < sampling.top_p).sum())
        margin = float(np.abs(before - sampling.top_p).min())
        ranked, shares = ranked[:count], shares[:count] / shares[:count].sum()
    else:
        margin = 1.0
    if sampling.min_p:  # MinPLogitsWarper
        margin = min(margin, float(np.abs(shares - sampling.min_p * shares[0]).min()))
        kept = shares >= sampling.min_p * shares[0]
        ranked, shares = ranked[: int(kept.sum())], shares[kept] / shares[kept].sum()
    return dict(zip(ranked, shares.tolist(), strict=True)), margin


class Uniform:
    """A random source that says what it is told."""

    def __init__(self) -> None:
        self.value = 0.0

    def random(self) -> float:
        return self.value


def drawn(
    logits: Logits, sampling: Sampling, prompt: Sequence[int] = (), answer: Sequence[int] = ()
) -> Counter[int]:
    """How often each token comes as the uniform number sweeps from 0 to 1."""
    uniform = Uniform()
    counts: Counter[int] = Counter()
    sampler = Sampler(sampling, prompt)
    sampler._rng = uniform  # type: ignore[assignment]  # has the one method that is called
    for step in range(STEPS):
        sampler._answer = list(answer)  # as if it had not chosen yet
        uniform.value = (step + 0.5) / STEPS
        counts[sampler.choose(logits)] += 1
    return counts


def assert_same(counts: Counter[int], expected: dict[int, float]) -> None:
    assert set(counts) <= set(expected), "a token outside the support"
    for token, share in expected.items():
        assert counts[token] == pytest.approx(STEPS * share, abs=1.01), token


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 100]),
    top_p=st.sampled_from([0.05, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.6, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -0.3]),
    logit_bias=st.dictionaries(st.integers(0, 3), st.sampled_from([-100.0, -1.5, 2.25])),
    seed=st.just(1),
)


@settings(SETTINGS, max_examples=40)
@given(
    scores=st.lists(st.integers(-80, 80), min_size=4, max_size=12, unique=True),
    sampling=samplings,
    prompt=st.lists(st.integers(0, 3), max_size=3),
    answer=st.lists(st.integers(0, 3), max_size=5),
)
def test_every_token_is_drawn_as_often_as_the_naive_one_says(
    scores: list[int], sampling: Sampling, prompt: list[int], answer: list[int]
) -> None:
    logits = np.array(scores, dtype=np.float32) / np.float32(7.3)
    expected, margin = naive(logits, sampling, prompt, answer)
    assume(margin > 1e-4)  # where float32 and float64 may cut at different tokens
    assume(len(set(np.round(list(expected.values()), 9))) == len(expected))  # penalties make ties
    assert_same(drawn(logits, sampling, prompt, answer), expected)


@pytest.mark.parametrize(
    ("spread", "sampling"),
    [
        (0.01, Sampling(temperature=1.0, top_p=0.9)),  # nearly all tokens are needed
        (2.0, Sampling(temperature=1.0, top_p=0.9)),
        (6.0, Sampling(temperature=0.8, top_p=0.95)),
        (2.0, Sampling(temperature=1.0, top_k=50, top_p=0.9)),
        (2.0, Sampling(temperature=0.7, top_k=5)),
        (2.0, Sampling(temperature=0.7, top_k=SIZE // BLOCKS)),  # as many as there are columns
        (2.0, Sampling(temperature=0.7, top_k=SIZE // BLOCKS + 1)),
        (2.0, Sampling(temperature=0.7, top_k=SIZE + 1)),
        (2.0, Sampling(temperature=0.8, min_p=0.05)),
        (2.0, Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)),
        (4.0, Sampling(temperature=1.0)),
    ],
)
def test_a_real_vocabulary_is_cut_at_the_same_token(spread: float, sampling: Sampling) -> None:
    logits = np.random.default_rng(5).normal(0, spread, SIZE).astype(np.float32)
    expected, _ = naive(logits, sampling)
    counts = drawn(logits, sampling)
    likely = {t for t, share in expected.items() if share > 2 / STEPS}
    assert likely <= set(counts)
    for token, count in counts.items():
        assert count == pytest.approx(STEPS * expected.get(token, 0.0), abs=1.5)


@SETTINGS
@given(scores=st.lists(st.integers(-9, 9), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_greedy_is_the_arg_max_whatever_else_is_asked_for(scores: list[int], seed: int) -> None:
    logits = np.array(scores, dtype=np.float32)
    for sampling in (
        Sampling(seed=seed),
        Sampling(temperature=0.0, top_k=2, top_p=0.1),
        Sampling(temperature=1.0, top_k=1, seed=seed),
    ):
        token = Sampler(sampling, []).choose(logits)
        assert scores[token] == max(scores)


@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-60, 5e-324])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.filterwarnings("error")
def test_a_vanishing_temperature_is_greedy(temperature: float, top_p: float) -> None:
    logits = np.array([1.0, 3.0, 2.0, -40.0], dtype=np.float32)
    for seed in range(20):
        sampler = Sampler(Sampling(temperature=temperature, top_p=top_p, seed=seed), [])
        assert sampler.choose(logits) == 1


@pytest.mark.parametrize(
    ("logits", "sampling"),
    [
        ([2000.0, 1.0, 0.0], Sampling(temperature=1e-7, top_p=0.5)),
        ([20.0, 1.0, 0.0], Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1e-40)),
        ([20.0, 1.0, 0.0], Sampling(temperature=1.0, top_k=2, min_p=0.1, repetition_penalty=1e-40)),
    ],
)
def test_scores_beyond_float32_are_the_likeliest(logits: list[float], sampling: Sampling) -> None:
    assert Sampler(sampling, [0]).choose(np.array(logits, dtype=np.float32)) == 0


@pytest.mark.parametrize("offset", [-500.0, 500.0])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.filterwarnings("error")
def test_logits_far_from_zero_are_drawn_like_others(offset: float, top_p: float) -> None:
    sampling = Sampling(temperature=0.3, top_p=top_p, min_p=0.01)
    logits = np.random.default_rng(5).normal(0, 2, SIZE).astype(np.float32)
    logits += np.float32(offset)  # what is rounded here is rounded for both
    expected, _ = naive(logits, sampling)
    counts = drawn(logits, sampling)
    for token in {*counts, *(t for t, share in expected.items() if share > 2 / STEPS)}:
        assert counts[token] == pytest.approx(STEPS * expected.get(token, 0.0), abs=1.5)


def test_a_seed_repeats_and_another_does_not() -> None:
    logits = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95, seed=seed), [])
        return [sampler.choose(logits) for _ in range(20)]

    assert draw(7) == draw(7)
    assert len({tuple(draw(seed)) for seed in (7, 8, None, None)}) == 4


@SETTINGS
@given(
    scores=st.lists(st.integers(-30, 30), min_size=3, max_size=8, unique=True),
    sampling=st.builds(
        Sampling,
        repetition_penalty=st.sampled_from([1.0, 0.5, 1.1, 10.0]),
        presence_penalty=st.sampled_from([0.0, 1.0, -0.5]),
        frequency_penalty=st.sampled_from([0.0, 2.0, 0.25]),
        logit_bias=st.dictionaries(st.integers(0, 2), st.sampled_from([-100.0, 3.0])),
    ),
    prompt=st.lists(st.integers(0, 2), max_size=3),
)
def test_penalties_follow_a_growing_answer(
    scores: list[int], sampling: Sampling, prompt: list[int]
) -> None:
    logits = np.array(scores, dtype=np.float32)
    kept = logits.copy()
    sampler = Sampler(sampling, prompt)
    answer: list[int] = []
    for _ in range(6):
        expected = penalised(logits, sampling, prompt, answer)
        chosen = sampler.choose(logits)
        assert expected[chosen] == pytest.approx(max(expected.values()), rel=1e-5, abs=1e-5)
        answer.append(chosen)
    assert (logits == kept).all()  # the runtime's own memory is not written to


def test_a_processor_of_ones_own_has_the_last_word_and_sees_the_answer() -> None:
    seen: list[list[int]] = []

    def only_even(answer: Sequence[int], logits: Logits) -> None:
        seen.append(list(answer))
        logits[1::2] = -np.inf

    logits = np.random.default_rng(3).normal(0, 1, SIZE).astype(np.float32)
    biased = Sampling(logit_bias={7: 100.0})
    assert Sampler(biased, []).choose(logits) == 7
    assert Sampler(biased, [], [only_even]).choose(logits) == logits[::2].argmax() * 2
    seen.clear()
    for sampling in (Sampling(temperature=1.5, seed=4), Sampling(temperature=1.5, top_k=3000)):
        sampler = Sampler(sampling, [], [only_even])
        tokens = [sampler.choose(logits) for _ in range(30)]
        assert all(token % 2 == 0 for token in tokens)
        assert len(set(tokens)) > 10
    assert [len(answer) for answer in seen] == [*range(30), *range(30)]
    assert seen[-1] == tokens[:-1]


def test_equal_scores_are_cut_in_order_of_their_ids() -> None:
    logits = np.zeros(SIZE, dtype=np.float32)
    tokens = drawn(logits, Sampling(temperature=1.0, top_k=3))
    assert set(tokens) == {0, 1, 2}


class Among:
    """A bound that allows some tokens; it counts how often it was asked for all of them."""

    def __init__(self, *tokens: int, size: int = SIZE) -> None:
        self._tokens = set(tokens)
        self._size = size
        self.taken: list[int] = []
        self.masks = 0

    def take(self, token: int) -> bool:
        if token in self._tokens:
            self.taken.append(token)
        return token in self._tokens

    def allowed(self) -> npt.NDArray[np.bool_]:
        self.masks += 1
        return np.isin(np.arange(self._size), list(self._tokens))


@given(st.integers(0, 10**6), st.sets(st.integers(0, SIZE - 1), min_size=1, max_size=50))
@SETTINGS
def test_greedy_within_a_bound_is_the_arg_max_of_what_it_allows(
    seed: int, tokens: set[int]
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, SIZE).astype(np.float32)
    bound = Among(*tokens)
    chosen = Sampler(Sampling(), []).choose(logits, bound)
    assert chosen == max(tokens, key=lambda token: logits[token])
    assert bound.taken == [chosen]
    before = int((logits > logits[chosen]).sum())
    assert bound.masks == (before >= TRIES), "a mask only where some free choices do not fit"


DRAWS = 3_000
LIKELY = 30  # tokens; the others never come
Z = 3.3  # of a normal distribution: exceeded in 1 of 2,000 tests


def chi_square_bound(freedom: int) -> float:
    """What chi-square exceeds in 1 of 2,000 tests (Wilson and Hilferty, 1931)."""
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + Z * part**0.5) ** 3)


def within(logits: Logits, allowed: list[int], sampling: Sampling) -> dict[int, float]:
    """The probabilities under a mask: what the cut has left of the allowed tokens, by weight; if it
    has none, the cut is made among the allowed tokens."""
    free, _ = naive(logits, sampling)
    left = {token: share for token, share in free.items() if token in allowed and share > 0}
    if not left:
        masked = np.full(len(logits), -np.inf, dtype=np.float32)
        masked[allowed] = logits[allowed]
        left = {token: share for token, share in naive(masked, sampling)[0].items() if share > 0}
    whole = sum(left.values())
    return {token: share / whole for token, share in left.items()}


@pytest.mark.parametrize(
    "how",
    [
        *({}, {"top_p": 0.9}, {"top_p": 0.3}, {"top_k": 4}, {"min_p": 0.05}),
        {"top_k": 9, "top_p": 0.7, "min_p": 0.02},
    ],
)
@pytest.mark.parametrize("refused", [0, 1, TRIES, 12])
def test_tokens_within_a_bound_come_as_often_as_under_a_mask(
    how: dict[str, Any], refused: int
) -> None:
    """However many likely tokens are refused: by chi-square against the masked distribution."""
    ranked = np.random.default_rng(3).permutation(2 * LIKELY).tolist()
    logits = np.full(2 * LIKELY, -60.0, dtype=np.float32)
    logits[ranked[:LIKELY]] = -0.15 * np.arange(LIKELY)
    allowed = [ranked[rank] for rank in range(refused, LIKELY) if rank % 5 != 4]
    sampling = Sampling(temperature=0.9, **how)
    expected = within(logits, allowed, sampling)
    bound = Among(*allowed, size=len(logits))
    sampler = Sampler(msgspec.structs.replace(sampling, seed=refused), [])
    came = Counter(sampler.choose(logits, bound) for _ in range(DRAWS))
    assert set(came) <= set(expected)
    likely = {token: share for token, share in expected.items() if share * DRAWS >= 5}
    assert sum(came[token] for token in likely) > 0.99 * DRAWS
    off = sum((came[t] - DRAWS * share) ** 2 / (DRAWS * share) for t, share in likely.items())
    assert len(likely) == 1 or off < chi_square_bound(len(likely) - 1)


def test_a_token_that_is_refused_once_more_behind_the_mask_never_comes() -> None:
    """As a key that an object has already: no mask knows of it."""

    class Later(Among):
        def take(self, token: int) -> bool:
            return token != 3 and super().take(token)

    logits = np.zeros(SIZE, dtype=np.float32)
    for sampling in (Sampling(temperature=1.0, seed=1), Sampling()):
        sampler = Sampler(sampling, [])
        assert {sampler.choose(logits, Later(3, 4)) for _ in range(50)} == {4}
        with pytest.raises(GrammarError):
            sampler.choose(logits, Later(3))
