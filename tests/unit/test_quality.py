"""The score of a new release against the old one, its bound, and what cannot be compared."""

from __future__ import annotations

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.quality import (
    MAX_NATS,
    Lineage,
    QualityBound,
    QualityReport,
    QualityScore,
    Sample,
    TopTokens,
    Walked,
    divergence,
    in_words,
    loops,
    objection_to,
    score_of,
    unlike,
    worse,
)

OWN = Lineage("smollm2", "llama", "ab")


def logs(*values: float) -> list[float]:
    return [log(value) for value in values]


def sample(*tops: list[float], length: int = 10, looping: bool = False) -> Sample:
    found = [TopTokens(list(range(7, 7 + len(top))), logs(*top)) for top in tops]
    return Sample([1, 2, *([7] * len(tops))], 2, found, length, looping)


def test_the_same_release_agrees_in_everything() -> None:
    old = sample([0.9, 0.05], [0.6, 0.3])
    score = score_of([old], [Walked([7, 7], [top.logprobs for top in old.tops], 10, False)])
    assert score == QualityScore(1, 0, 2, 1, 1.0, 0.0, 1.0, 0.0)
    assert worse(score, QualityBound()) == ""


def test_only_certain_positions_count_for_the_agreement() -> None:
    old = sample([0.9, 0.05], [0.4, 0.35])  # 2.9 and 0.13 nats apart
    same = [top.logprobs for top in old.tops]
    for best, agreement in (([7, 8], 1.0), ([8, 7], 0.0)):
        score = score_of([old], [Walked(best, same, 10, False)])
        assert score is not None
        assert (score.certain, score.agreement) == (1, agreement)


def test_the_divergence_is_that_of_the_named_tokens_and_the_rest() -> None:
    found = divergence(logs(0.5, 0.25), logs(0.25, 0.5))
    assert found == pytest.approx(0.5 * log(2) - 0.25 * log(2))
    assert divergence(logs(0.5, 0.25), [float("nan"), -1.0]) == MAX_NATS


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=20), st.integers(0, 2**20))
def test_a_divergence_is_never_negative_and_zero_for_the_same(
    weights: list[float], seed: int
) -> None:
    total = sum(weights) * 1.1
    old = [log(weight / total) for weight in weights]
    turned = old[seed % len(old) :] + old[: seed % len(old)]
    assert divergence(old, old) == pytest.approx(0, abs=1e-9)
    assert 0 <= divergence(old, turned) <= MAX_NATS


def test_lengths_and_loops_are_those_of_the_greedy_answers() -> None:
    old = [sample([0.9, 0.05], length=10), sample([0.9, 0.05], length=30, looping=True)]
    same = [[top.logprobs for top in each.tops] for each in old]
    walked = [Walked([7], same[0], 50, True), Walked([7], same[1], 50, True)]
    score = score_of(old, walked)
    assert score is not None
    assert (score.length_ratio, score.loops_added) == (2.5, 0.5)


def test_a_loop_is_a_run_of_eight_tokens_that_comes_four_times() -> None:
    once = list(range(8))
    assert loops([99, *once * 4])
    assert loops([5] * 11)
    assert not loops(once * 3)
    assert not loops(list(range(64)))
    assert not loops([])


def test_nothing_walked_is_no_score() -> None:
    assert score_of([], []) is None


def test_each_bound_is_named_with_both_numbers() -> None:
    bound = QualityBound(agreement=0.9, kl=0.1, length_factor=2.0, loops_added=0.25)
    good = QualityScore(4, 0, 60, 50, 0.9, 0.1, 2.0, 0.25)
    assert worse(good, bound) == ""
    for score, words in (
        (QualityScore(4, 0, 60, 50, 0.88, 0.1, 2.0, 0.25), "88% of 50 certain positions, 90%"),
        (QualityScore(4, 0, 60, 50, 0.9, 0.2, 2.0, 0.25), "0.2 nats, at most 0.1"),
        (QualityScore(4, 0, 60, 50, 0.9, 0.1, 0.4, 0.25), "0.4 times as long, 0.5 to 2"),
        (QualityScore(4, 0, 60, 50, 0.9, 0.1, 2.0, 0.5), "50% more of its answers repeat"),
        (QualityScore(4, 0, 60, 50, float("nan"), 0.1, 2.0, 0.25), "certain positions"),
    ):
        assert words in worse(score, bound)


def test_a_release_that_was_rebuilt_has_to_answer_alike() -> None:
    near = QualityScore(4, 0, 187, 145, 0.9931, 0.01, 1.0, 0.0)
    far = QualityScore(4, 0, 187, 145, 0.9931, 0.0404, 1.0, 0.0)
    wide, narrow = QualityBound(), QualityBound(agreement=0.999, kl=0.001)
    assert objection_to(QualityReport("b", "a", far), wide) == ""
    assert objection_to(QualityReport("b", "a", near, rebuilt=True), wide) == ""
    assert objection_to(QualityReport("b", "a", far, rebuilt=True), wide) == (
        "its KL divergence is 0.0404 nats, at most 0.02 are allowed (both were made from the same "
        "source in the same way)"
    )
    assert "at most 0.001" in objection_to(QualityReport("b", "a", near, rebuilt=True), narrow)
    assert objection_to(QualityReport("b", why="not comparable", rebuilt=True), narrow) == ""


def test_only_one_lineage_and_tokenizer_is_compared() -> None:
    assert unlike(OWN, OWN) == ""
    assert "is the model phi (phi3)" in unlike(Lineage("phi", "phi3", "ab"), OWN)
    assert "llama), this one is smollm2" in unlike(Lineage("other", "llama", "ab"), OWN)
    assert "different tokenizers" in unlike(Lineage("smollm2", "llama", "cd"), OWN)
    assert unlike(Lineage("smollm2", "llama", "ab", "from elsewhere"), OWN) == ""


def test_a_bound_without_meaning_is_refused() -> None:
    for name, value in (
        ("agreement", 1.1),
        ("kl", 0.0),
        ("length_factor", 0.5),
        ("loops_added", -1.0),
    ):
        with pytest.raises(ValueError, match="quality_"):
            QualityBound(**{name: value})


def test_a_report_in_words() -> None:
    score = QualityScore(4, 0, 60, 50, 0.98, 0.034, 1.02, -0.25)
    assert in_words(QualityReport("a", "b", score)) == (
        "agreement 98.0%, KL 0.034, length x1.02, loops -25%"
    )
    assert in_words(QualityReport("a", why="not comparable")) == "not comparable"
