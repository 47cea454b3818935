"""The decision about what a model makes of pictures: figures, limits, verdict. Pure.

The pictures are drawn by code (`inside/gate/drawing.py`), and the answers are fixed. The reference
is torch in full precision. Features are compared alone, and the answers twice: after the model's
own features, and after the reference's, which shows what the text part loses by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.builder.gate.seen import PictureReport
from edgekit.builder.gate.verdict import Limit, Thresholds, Verdict, Violation

FEATURES = {"fp32": Limit(5e-5, 1e-4), "int8": Limit(0.05, 0.1)}
"""Precision of the vision part -> limits of `feature_error`. INT8 was .020 on a tower of the real
size with random weights, and INT4 .27 (docs/build.md)."""
FIRST = Limit(0.75, 0.5)
"""Least share of pictures whose answer begins with the reference's most likely token. Eight
pictures say little about it; the divergence says more."""
SWAP = Limit(0.7, 0.3)
"""Least change of a model's answer when the picture is another one, divided by the reference's own.
A model that ignores the picture has 0."""


def judge_pictures(report: PictureReport, thresholds: Thresholds) -> Verdict:
    """Compare the figures with their limits; NaN refuses the model.

    Args:
        thresholds: of the profile; the answers after pictures have the limit of `kl_mean`.
    """
    found = [
        *_above("picture_features", report.feature_error, FEATURES[report.vision], _FEATURES),
        *_above("picture_kl", report.kl, thresholds.kl_mean, _KL),
        *_below("picture_first", report.first, FIRST, _FIRST),
    ]
    swap = report.swap
    if swap is not None:
        found += _below("picture_swap", swap, SWAP, _SWAP)
    refused = tuple(violation for violation, fatal in found if fatal)
    return Verdict(not refused, refused, tuple(v for v, fatal in found if not fatal))


_FEATURES = "its features of a picture are not full precision's: off by {measured:.2g} of them"
_KL = "its answers about pictures are far from full precision: mean KL divergence {measured:.3f}"
_FIRST = "its answer begins as full precision's for only {measured:.0%} of the pictures"
_SWAP = "another picture changes its answer by only {measured:.0%} of what it should: it looks away"


def _above(name: str, measured: float, limit: Limit, text: str) -> Iterator[tuple[Violation, bool]]:
    for bound, fatal in ((limit.refuse, True), (limit.warn, False)):
        if not measured <= bound:
            yield _violation(name, measured, bound, text), fatal
            return


def _below(name: str, measured: float, limit: Limit, text: str) -> Iterator[tuple[Violation, bool]]:
    for bound, fatal in ((limit.refuse, True), (limit.warn, False)):
        if not measured >= bound:
            yield _violation(name, measured, bound, text), fatal
            return


def _violation(name: str, measured: float, bound: float, text: str) -> Violation:
    return Violation(name, measured, bound, f"{text.format(measured=measured)} (limit {bound:g})")


def merged(verdict: Verdict, pictures: Sequence[Verdict]) -> Verdict:
    """The verdict about the text, and those about pictures."""
    every = (verdict, *pictures)
    return Verdict(
        all(each.passed for each in every),
        tuple(finding for each in every for finding in each.findings),
        tuple(warning for each in every for warning in each.warnings),
    )
