"""Golden prompts as values: what passes, what fails by name, and what is no record at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.golden import (
    MAX_GOLDEN_BYTES,
    MAX_NATS,
    MAX_PROMPT_TOKENS,
    MAX_SCORED,
    MAX_TEXT,
    Golden,
    GoldenPrompt,
    GoldenScore,
    ScoredPosition,
    parse_golden,
    passes,
    score_of,
)
from edgekit.errors import VerificationError

VOCABULARY = 100
PROMPT = GoldenPrompt([1, 2, 3, 4, 5], 2, [3, 4, 5], [2.0, 0.5, 3.0], [-0.1, -1.0, -0.2], "ab")
GOLDEN = Golden([PROMPT, PROMPT])


def found(*changes: float, best: tuple[int, ...] = (3, 4, 5, 3, 4, 5)) -> list[ScoredPosition]:
    """What a device finds whose log-probabilities changed by so much."""
    logprobs = [*PROMPT.logprobs, *PROMPT.logprobs]
    return [
        ScoredPosition(token, 1.0, logprob + change)
        for token, logprob, change in zip(best, logprobs, [*changes, *[0.0] * 6], strict=False)
    ]


def test_the_same_model_has_no_change() -> None:
    score = score_of(GOLDEN, found(), 50.0, 0)
    assert score == GoldenScore(6, 4, 1.0, 0.0, 50.0)
    assert passes(GOLDEN, score) == ""


def test_only_certain_positions_count_for_the_agreement_and_all_for_the_likelihood() -> None:
    score = score_of(GOLDEN, found(-0.3, best=(3, 9, 5, 3, 9, 5)), 50.0, 0)
    assert (score.counted, score.agreement) == (4, 1.0)
    assert score.nll_change == pytest.approx(0.05)
    assert passes(GOLDEN, score) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"agreement": 0.94}, "recorded one at 94% of 4 certain positions, 95% are needed"),
        ({"agreement": float("nan")}, "nan% of 4 certain"),
        ({"nll_change": 0.101}, "became 0.101 nats per token less likely, at most 0.1 are"),
        ({"nll_change": -0.2}, "became 0.200 nats per token more likely"),
        ({"nll_change": float("nan")}, "nan nats"),
        ({"nll_change": float("inf")}, "inf nats"),
        ({"positions": 5}, "5 positions were scored, 6 are recorded"),
        ({"positions": 0}, "0 positions were scored, 6 are recorded"),
        ({"misread": 1}, "reads 1 of 2 prompts as other tokens"),
    ],
)
def test_a_model_fails_by_name_with_both_numbers(change: dict[str, Any], says: str) -> None:
    score = msgspec.structs.replace(score_of(GOLDEN, found(), 50.0, 0), **change)
    assert says in passes(GOLDEN, score)


def test_a_record_without_prompts_asks_nothing_of_the_model() -> None:
    empty = Golden([])
    assert passes(empty, score_of(empty, [], 0.0, 0)) == ""


def test_logits_that_are_no_numbers_fail() -> None:
    positions = [ScoredPosition(0, 0.0, -MAX_NATS)] * 6
    assert "certain positions" in passes(GOLDEN, score_of(GOLDEN, positions, 50.0, 0))


@given(st.lists(st.floats(-0.09, 0.09), min_size=6, max_size=6))
def test_whatever_moves_less_than_the_tolerance_passes(changes: list[float]) -> None:
    assert passes(GOLDEN, score_of(GOLDEN, found(*changes), 50.0, 0)) == ""


def test_a_record_is_read_back_as_it_was_written() -> None:
    assert parse_golden(msgspec.json.encode(GOLDEN), VOCABULARY) == GOLDEN
    # one of a later version has more keys
    more = {**msgspec.to_builtins(GOLDEN), "later": 1}
    assert parse_golden(msgspec.json.encode(more), VOCABULARY) == GOLDEN


def prompt(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the record's first prompt."""
    return lambda golden: golden["prompts"][0].update(changes)


def whole(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Change the record's own values."""
    return lambda golden: golden.update(changes)


LONG = MAX_PROMPT_TOKENS + 1
SCORED = {
    "tokens": [1] * (MAX_SCORED + 1),
    "best": [1] * MAX_SCORED,
    "margins": [1.0] * MAX_SCORED,
    "logprobs": [-1.0] * MAX_SCORED,
    "start": 1,
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (prompt(best=[3, 4, 100]), "token 100 is outside the vocabulary of 100"),
        (prompt(tokens=[1, 2, 3, 4, -1]), "token -1 is outside"),
        (prompt(best=[3, 4]), "best has 2 values for 3 scored"),
        (prompt(margins=[1.0] * 4), "margins has 4 values"),
        (prompt(logprobs=[]), "logprobs has 0 values"),
        (prompt(start=0), "start is 0, of 5"),
        (prompt(start=5), "start is 5, of 5"),
        (prompt(tokens=[1], start=1), "it has 1 tokens"),
        (prompt(tokens=[1] * LONG), f"it has {LONG} tokens"),
        (prompt(margins=[1.0, -0.1, 1.0]), "a margin is -0.1"),
        (prompt(margins=[1.0, 1e30, 1.0]), "a margin is 1e+30"),
        (prompt(logprobs=[-1.0, 0.1, -1.0]), "a log-probability is 0.1"),
        (prompt(logprobs=[-1.0, -1e300, -1.0]), "a log-probability is -1e+300"),
        (prompt(text="a" * (MAX_TEXT + 1)), "text has 8193 characters"),
        (prompt(**SCORED), "67 positions are scored, at most 64"),
        (whole(margin=-1), "margin is -1"),
        (whole(agreement=1.5), "agreement is 1.5; it is 0 to 1"),
        (whole(nll=1e6), "nll is 1e+06"),
        (whole(soak_seconds=1e9), "soak_seconds is 1e+09"),
        (whole(soak_seconds=-1), "soak_seconds is -1"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], says: str
) -> None:
    golden = msgspec.to_builtins(GOLDEN)
    change(golden)
    with pytest.raises(VerificationError) as refused:
        parse_golden(msgspec.json.encode(golden), VOCABULARY)
    assert refused.value.what == "the bundle's golden prompts are not usable"
    assert says in refused.value.why


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"prompts": 1}',
        b'{"prompts": [{"tokens": [1.5]}]}',
        b'{"prompts": [], "nll": null}',
        b'{"prompts": [], "nll": NaN}',
        b'{"prompts": [], "nll": 1e999}',
        b'{"prompts": [], "nll": true}',
        b'{"prompts": [{"tokens": [99999999999999999999999999]}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b" " * (MAX_GOLDEN_BYTES + 1),
    ],
)
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(VerificationError, match="golden prompts"):
        parse_golden(data, VOCABULARY)
