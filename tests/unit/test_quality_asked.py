"""What a controller makes of a device's word on the quality of a release."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from edgekit.core.digest import Digest
from edgekit.core.quality import QualityReport, QualityScore
from edgekit.fleet.drive import DeviceDriver
from edgekit.fleet.push import WHY_LETTERS, quality_of

NEW = Digest.of(b"new")
SCORE = {"prompts": 4, "ended": 0, "positions": 60, "certain": 50, "agreement": 0.98, "kl": 0.1,
         "length_ratio": 1.0, "loops_added": 0.0}  # fmt: skip


def asked(**told: Any) -> QualityReport | None:
    class Driver:
        def call(self, verb: str) -> dict[str, Any]:
            assert verb == "state"
            return {"current": str(NEW)} | told

    return quality_of(cast("DeviceDriver", Driver()), NEW)


def test_a_score_is_taken_and_a_missing_one_is_asked_for_again() -> None:
    report = asked(quality={"release": str(NEW), "against": "old", "score": SCORE, "why": ""})
    assert report == QualityReport(str(NEW), "old", msgspec.convert(SCORE, QualityScore))
    assert asked(quality=None) is None


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({}, "its agent compares no releases"),
        ({"current": "sha256:" + "0" * 64, "quality": None}, "runs another release"),
        ({"quality": {"release": 7}}, "its score is none"),
        ({"quality": {"release": "x", "score": {"kl": "much"}}}, "its score is none"),
    ],
)
def test_what_cannot_be_compared_is_said_and_is_no_alarm(told: dict[str, Any], why: str) -> None:
    report = asked(**told)
    assert report is not None
    assert why in report.why
    assert report.score is None


def test_a_device_cannot_fill_the_journal_with_its_reason() -> None:
    report = asked(quality={"release": str(NEW), "why": "x" * 10_000})
    assert report is not None
    assert len(report.why) == WHY_LETTERS
