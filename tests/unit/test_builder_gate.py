"""The gate's decision: metrics that pass, and violations by name."""

from __future__ import annotations

import math

import msgspec
import pytest

from edgekit.builder.gate.measure import PROMPTS
from edgekit.builder.gate.verdict import (
    PROFILES,
    GateMetrics,
    GateReport,
    Limit,
    find_thresholds,
    judge,
)
from edgekit.errors import UsageError

STRICT = PROFILES["strict"]
GOOD = GateMetrics(
    loads=True,
    positions=1000,
    texts=16,
    kl_mean=0.02,
    kl_error=0.001,
    kl_median=0.01,
    kl_p99=0.2,
    top1=0.95,
    perplexity_ratio=1.01,
    greedy_texts=12,
    ended=9,
    reference_loops=0,
    reference_ended=9,
    templates=6,
    token_texts=38,
    weight_error=0.15,
    rotary_error=0.0,
    long_positions=95,
    long_kl=0.02,
    cache_positions=511,
    cache_kl=0.0001,
)
# what k_quant gets on SmolLM2-135M
SMALL = msgspec.structs.replace(
    GOOD, kl_mean=0.4505, kl_p99=2.13, top1=0.669, perplexity_ratio=1.575, loops=4,
    reference_loops=4,
)  # fmt: skip


def test_a_good_model_passes_without_a_word() -> None:
    verdict = judge(GOOD, STRICT)
    assert verdict.passed
    assert verdict.findings == verdict.warnings == ()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("kl_mean", {"kl_mean": 0.08}),
        ("kl_mean", {"kl_mean": math.nan}),
        ("kl_p99", {"kl_p99": 0.51}),
        ("top1", {"top1": 0.88}),
        ("perplexity_ratio", {"perplexity_ratio": 1.07}),
        ("loops_added", {"loops": 2}),
        ("ends_lost", {"ended": 5}),
        ("template_mismatches", {"template_mismatches": 1}),
        ("token_mismatches", {"token_mismatches": 1}),
        ("weight_error", {"weight_error": 1.0}),
        ("rotary_error", {"rotary_error": 1.9}),
        ("long_kl", {"long_kl": 1.1}),
        ("cache_kl", {"cache_kl": 0.018}),
    ],
)
def test_each_metric_refuses_alone_and_by_its_name(name: str, bad: dict[str, float]) -> None:
    verdict = judge(msgspec.structs.replace(GOOD, **bad), STRICT)
    assert not verdict.passed
    assert [finding.name for finding in verdict.findings] == [name]
    assert f"limit {getattr(STRICT, name).refuse:g}" in verdict.findings[0].message


def test_a_model_that_cannot_read_in_pieces_is_refused_with_the_runtimes_words() -> None:
    bad = msgspec.structs.replace(GOOD, cache_kl=math.nan, cache_error="no such state")
    (finding,) = judge(bad, STRICT).findings
    assert finding.name == "cache_kl"
    assert "no such state" in finding.message


def test_between_both_bounds_it_is_said_and_passes() -> None:
    verdict = judge(msgspec.structs.replace(GOOD, kl_mean=0.05, top1=0.9), STRICT)
    assert verdict.passed
    assert [warning.name for warning in verdict.warnings] == ["kl_mean", "top1"]


def test_a_model_that_does_not_load_is_refused_for_that_alone() -> None:
    verdict = judge(GateMetrics(loads=False, load_error="bad shape"), STRICT)
    assert [finding.name for finding in verdict.findings] == ["loads"]
    assert "bad shape" in verdict.findings[0].message


def test_the_small_profile_takes_what_strict_refuses() -> None:
    assert judge(SMALL, PROFILES["small"]).passed
    assert not judge(SMALL, STRICT).passed


def test_loops_of_the_reference_are_not_held_against_the_model() -> None:
    assert SMALL.loops_added == 0
    alone = msgspec.structs.replace(SMALL, reference_loops=None)
    assert alone.loops_added == pytest.approx(4 / 12)


def test_without_a_reference_to_compare_only_a_model_that_never_ends_is_refused() -> None:
    alone = msgspec.structs.replace(GOOD, reference_ended=None)
    assert judge(msgspec.structs.replace(alone, ended=1), STRICT).passed
    never = judge(msgspec.structs.replace(alone, ended=0), STRICT)
    assert [finding.name for finding in never.findings] == ["ends_lost"]
    base_model = msgspec.structs.replace(alone, ended=0, templates=0)
    assert judge(base_model, STRICT).passed


def test_what_could_not_be_measured_is_not_judged() -> None:
    nothing = {"weight_error": None, "rotary_error": None, "long_kl": None, "cache_kl": None}
    assert judge(msgspec.structs.replace(GOOD, **nothing), STRICT).passed


def test_overrides_replace_single_limits() -> None:
    looser = find_thresholds("strict", {"kl_mean": 0.2, "top1": 0.8})
    assert looser.kl_mean == Limit(0.03, 0.2)
    assert looser.top1 == Limit(0.93, 0.8)
    assert looser.kl_p99 == STRICT.kl_p99
    tighter = find_thresholds("strict", {"kl_mean": 0.01, "top1": 0.99})
    assert tighter.kl_mean == Limit(0.01, 0.01)
    assert tighter.top1 == Limit(0.99, 0.99)


@pytest.mark.parametrize(
    ("profile", "overrides", "says"),
    [
        ("stricct", {}, "strict"),
        ("strict", {"kl_maen": 0.1}, "kl_mean"),
        ("strict", {"profile": 1.0}, "profile"),
        ("strict", {"kl_mean": -1.0}, "0 or more"),
        ("strict", {"kl_mean": math.nan}, "0 or more"),
        ("strict", {"kl_mean": math.inf}, "--no-gate"),
        ("strict", {"kl_mean": True}, "number"),
    ],
)
def test_wrong_thresholds_are_refused(profile: str, overrides: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_thresholds(profile, overrides)
    assert says in str(raised.value)


def test_a_report_survives_json() -> None:
    report = GateReport(
        profile="strict", thresholds=STRICT, metrics=GOOD, verdict=judge(GOOD, STRICT)
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=GateReport) == report


class Prompt(msgspec.Struct, forbid_unknown_fields=True):
    """One shipped prompt."""

    id: str
    set: str
    topic: str
    text: str


class Prompts(msgspec.Struct, forbid_unknown_fields=True):
    """The shipped file."""

    prompts: list[Prompt]
    conversations: list[list[dict[str, str]]]


def test_the_shipped_prompts_for_evaluation_and_for_tuning_are_disjoint() -> None:
    prompts = msgspec.json.decode(PROMPTS.read_bytes(), type=Prompts).prompts
    texts = {
        name: {prompt.text for prompt in prompts if prompt.set == name}
        for name in ("evaluate", "tune")
    }
    assert len(texts["evaluate"]) >= 32
    assert len(texts["tune"]) >= 32
    assert not texts["evaluate"] & texts["tune"]
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert len(prompts) == len(texts["evaluate"]) + len(texts["tune"])
