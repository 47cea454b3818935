"""What the gate decides about pictures."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from edgekit.builder.gate.picturepage import pictures_part
from edgekit.builder.gate.pictures import judge_pictures, merged
from edgekit.builder.gate.seen import PictureReport, PictureScore
from edgekit.builder.gate.verdict import PROFILES, GateMetrics, GateReport, Verdict, Violation

GOOD: dict[str, Any] = {
    "png": "data:image/png;base64,AA==", "question": "What?", "answer": "A <ring>.",
    "tokens": 313, "feature_error": 1e-6, "kl": 0.001, "kl_text": 0.001, "first_same": True,
    "swap": 0.4, "reference_swap": 0.4,
}  # fmt: skip


def report(vision: str = "fp32", **changes: Any) -> PictureReport:
    scores = tuple(PictureScore(**{**GOOD, **changes}) for _ in range(8))
    return PictureReport(vision, scores, 1.0)


def names(made: PictureReport) -> tuple[set[str], set[str]]:
    verdict = judge_pictures(made, PROFILES["strict"])
    return {v.name for v in verdict.findings}, {v.name for v in verdict.warnings}


def test_what_is_right_passes() -> None:
    assert names(report()) == (set(), set())
    assert names(report("int8", feature_error=0.02)) == (set(), set())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"feature_error": 2e-4}, "picture_features"),
        ({"feature_error": 0.27, "vision": "int8"}, "picture_features"),
        ({"feature_error": math.nan}, "picture_features"),
        ({"kl": 0.1}, "picture_kl"),
        ({"kl": math.nan}, "picture_kl"),
        ({"first_same": False}, "picture_first"),
        ({"swap": 0.0}, "picture_swap"),
        ({"swap": math.nan}, "picture_swap"),
    ],
)
def test_what_is_wrong_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    assert names(report(**changes))[0] == {name}


def test_between_its_bounds_a_figure_is_a_warning() -> None:
    assert names(report(kl=0.05)) == (set(), {"picture_kl"})
    assert names(report("int8", feature_error=0.07)) == (set(), {"picture_features"})


def test_nothing_is_said_of_a_reference_that_looks_away_itself() -> None:
    blind = report(swap=0.0, reference_swap=0.0)
    assert blind.swap is None
    assert names(blind) == (set(), set())


def test_one_refusal_of_any_kind_refuses() -> None:
    bad = Verdict(False, (Violation("kl_mean", 1, 0, "x"),), ())
    good = Verdict(True, (), (Violation("picture_kl", 1, 0, "y"),))
    both = merged(bad, (good,))
    assert (both.passed, len(both.findings), len(both.warnings)) == (False, 1, 1)
    assert merged(good, (good,)).passed


def test_a_report_without_pictures_says_nothing_of_them() -> None:
    thresholds = PROFILES["strict"]
    text = GateReport(
        profile="strict", thresholds=thresholds, metrics=GateMetrics(loads=True),
        verdict=Verdict(True, (), ()),
    )  # fmt: skip
    assert b"pictures" not in msgspec.json.encode(text)


def test_the_page_shows_each_picture_and_escapes_its_answer() -> None:
    html = pictures_part(report())
    assert html.count("<img") == 8
    assert "A &lt;ring&gt;." in html
