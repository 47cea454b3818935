"""The sampler against a naive one in float64 that follows Hugging Face transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.sampling import CANDIDATES, Sampler
from edgekit.core.chat import Sampling

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)
STEPS = 4000  # of the uniform number: a token of probability p is drawn STEPS * p times, +- 1
Logits = npt.NDArray[np.float32]


def naive(
    logits: Logits, sampling: Sampling, seen: Sequence[int] = ()
) -> tuple[dict[int, float], float]:
    """Probabilities by token, and how close top-p came to another choice of tokens."""
    scores = {token: float(score) for token, score in enumerate(logits)}
    for token in set(seen):  # RepetitionPenaltyLogitsProcessor
        score, penalty = scores[token], sampling.repetition_penalty
        scores[token] = score * penalty if score < 0 else score / penalty
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
    return dict(zip(ranked, shares.tolist(), strict=True)), margin


class Uniform:
    """A random source that says what it is told."""

    def __init__(self) -> None:
        self.value = 0.0

    def random(self) -> float:
        return self.value


def drawn(logits: Logits, sampling: Sampling, prompt: Sequence[int] = ()) -> Counter[int]:
    """How often each token comes as the uniform number sweeps from 0 to 1."""
    uniform = Uniform()
    counts: Counter[int] = Counter()
    for step in range(STEPS):
        sampler = Sampler(sampling, prompt)
        sampler._rng = uniform  # type: ignore[assignment]
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
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    seed=st.just(1),
)


@settings(SETTINGS, max_examples=40)
@given(
    scores=st.lists(st.integers(-80, 80), min_size=1, max_size=12, unique=True),
    sampling=samplings,
    seen=st.lists(st.integers(0, 11), max_size=4),
)
def test_every_token_is_drawn_as_often_as_the_naive_one_says(
    scores: list[int], sampling: Sampling, seen: list[int]
) -> None:
    logits = np.array(scores, dtype=np.float32) / np.float32(7.3)
    seen = [token for token in seen if token < len(scores)]
    expected, margin = naive(logits, sampling, seen)
    assume(margin > 1e-4)  # where float32 and float64 may cut at different tokens
    assume(len(set(np.round(list(expected.values()), 9))) == len(expected))  # penalties make ties
    assert_same(drawn(logits, sampling, seen), expected)


@pytest.mark.parametrize(
    ("spread", "sampling"),
    [
        (0.01, Sampling(temperature=1.0, top_p=0.9)),  # more tokens than CANDIDATES are needed
        (2.0, Sampling(temperature=1.0, top_p=0.9)),
        (6.0, Sampling(temperature=0.8, top_p=0.95)),  # the head is enough
        (2.0, Sampling(temperature=1.0, top_k=50, top_p=0.9)),
        (2.0, Sampling(temperature=0.7, top_k=5)),
        (4.0, Sampling(temperature=1.0)),
    ],
)
def test_a_real_vocabulary_is_cut_at_the_same_token(spread: float, sampling: Sampling) -> None:
    logits = np.random.default_rng(5).normal(0, spread, 3 * CANDIDATES).astype(np.float32)
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
    penalty=st.sampled_from([0.5, 1.1, 1.5, 10.0]),
    prompt=st.lists(st.integers(0, 2), max_size=3),
)
def test_the_repetition_penalty_counts_prompt_and_answer_as_transformers_does(
    scores: list[int], penalty: float, prompt: list[int]
) -> None:
    logits = np.array(scores, dtype=np.float32)
    kept = logits.copy()
    sampler = Sampler(Sampling(repetition_penalty=penalty), prompt)
    history = list(prompt)
    for _ in range(6):
        expected = logits.astype(np.float64)
        for token in set(history):
            expected[token] *= penalty if expected[token] < 0 else 1 / penalty
        chosen = sampler.choose(logits)
        assert expected[chosen] == pytest.approx(expected.max(), rel=1e-6)
        history.append(chosen)
    assert (logits == kept).all()  # the runtime's own memory is not written to
