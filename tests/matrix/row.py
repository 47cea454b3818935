"""What the matrix says about one case, and when a case is as it should be. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

RELATIVE_TOLERANCE = 1e-3
"""Largest difference of an FP32 logit, in standard deviations of transformers' own logits."""
FP16_TOLERANCE = 2e-2
"""The same for FP16, which carries 11 bits."""
LEAST_COSINE = 0.8
"""Of INT4 and INT8 logits and transformers' FP32 ones: random weights lose more than trained ones,
and a wrong scale or a swapped expert ends near zero."""

Status = Literal["equal", "built", "refused", "not tested", "failed"]


class Row(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        name: of the case.
        status: `equal` to transformers, only `built`, `refused` by edgekit's plan and not made by
            the builder either, `not tested`, or `failed`.
        group: `architecture`, `input` or `target`.
        difference: largest FP32 difference, in standard deviations of the logits.
        stepwise: the same, where the last tokens went in one by one.
        cosine: of the quantised model's logits and the reference's.
        tokens: how many the quantised model generated.
        note: the reason, in one line.
        seconds: it took.
    """

    name: str
    status: Status
    group: str = "architecture"
    difference: float | None = None
    stepwise: float | None = None
    cosine: float | None = None
    tokens: int = 0
    note: str = ""
    seconds: float = 0.0


def judged(
    name: str,
    group: str,
    full: dict[str, Any],
    small: dict[str, Any],
    note: str = "",
    tolerance: float = RELATIVE_TOLERANCE,
    labels: tuple[str, str] = ("FP32", "INT4"),
) -> Row:
    """The row of a case that was to be built and run.

    Args:
        full: what `inside/compare.py` says of the model that is to be equal; empty without one.
            `refused` in it is what edgekit's plan says against building it at all.
        small: the same of the quantised one; empty without one.
        note: for the user, whatever comes out.
        tolerance: of `full`.
        labels: how `full` and `small` are called.
    """
    unequal = _unequal(full, tolerance)
    problems, notes = [], []
    for label, result, why in zip(labels, (full, small), (unequal, _unsound(small)), strict=True):
        if not result or (result is small and full.get("refused") and unequal):
            continue  # quantising does not mend what is wrong already
        if not result.get("refused"):
            problems += [f"{label}: {why}"] if why else []
        elif why:  # the builder shows that the plan is right
            notes.append(f"{label}: {result['refused']} (the builder: {why})")
        else:
            problems.append(f"{label}: the plan refuses what comes out right: {result['refused']}")
    status: Status = "equal" if full else "built"
    if full.get("refused"):
        status = "refused"
    if problems:
        status = "failed"
    return Row(
        name=name,
        group=group,
        status=status,
        difference=full.get("difference"),
        stepwise=full.get("stepwise"),
        cosine=small.get("cosine"),
        tokens=len(small.get("tokens", ())),
        note="; ".join([*problems, *notes, *([note] if note else [])]),
    )


def _unequal(result: dict[str, Any], tolerance: float) -> str:
    """Why a model is not equal to the reference; empty if it is."""
    if result.get("error"):
        return str(result["error"])
    labels = {"difference": "the whole prompt", "stepwise": "one token at a time"}
    return "; ".join(
        f"{label} differs by {result[key]:.1e} standard deviations"
        for key, label in labels.items()
        if key in result and not result[key] <= tolerance  # also when it is no number
    )


def _unsound(result: dict[str, Any]) -> str:
    """Why a quantised model is no good; empty if it is."""
    if not result or result.get("error"):
        return str(result.get("error", ""))
    if not result["cosine"] >= LEAST_COSINE:
        return f"its logits have cosine {result['cosine']:.2f} to the reference"
    return "" if result["inside"] else "a generated token lies outside the vocabulary"


def counts(rows: list[Row]) -> dict[str, int]:
    """How many rows have each status."""
    names: tuple[Status, ...] = ("equal", "built", "refused", "not tested", "failed")
    return {name: sum(row.status == name for row in rows) for name in names}
