"""Decides which recipes `--recipe auto` tries and which it keeps. Pure.

Without a budget, `auto` tries the rungs from the smallest up and stops at the first that passes the
gate: the smallest good model. With a budget it tries every rung that fits and keeps the one closest
to full precision: the best model of at most that size.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class RecipeResult(msgspec.Struct, frozen=True):
    """Size, speed and loss of a recipe that was built and measured.

    Attributes:
        recipe: its name.
        total_bytes: size of the model folder.
        passed: whether the model passed the gate.
        mean_kl: mean KL divergence to full precision, nats per token.
        same_top1: share of positions where the most likely token is the reference's.
        tokens_per_second: greedy decoding on this machine.
        findings: names of the violations for which the gate refused it.
    """

    recipe: str
    total_bytes: int
    passed: bool
    mean_kl: float
    same_top1: float
    tokens_per_second: float
    findings: tuple[str, ...] = ()


def goes_on(tried: Sequence[RecipeResult], budget_bytes: int | None) -> bool:
    """Whether `auto` tries the next rung after these results."""
    return budget_bytes is not None or not any(result.passed for result in tried)


def fits(predicted_bytes: int, budget_bytes: int | None) -> bool:
    """Whether a model of that size is within the budget."""
    return budget_bytes is None or predicted_bytes <= budget_bytes


def kept(tried: Sequence[RecipeResult], budget_bytes: int | None) -> RecipeResult | None:
    """The recipe result whose model becomes the output; None where none passed and fits."""
    good = [result for result in tried if result.passed and fits(result.total_bytes, budget_bytes)]
    if budget_bytes is None:
        return min(good, key=lambda result: result.total_bytes, default=None)
    return min(good, key=lambda result: (result.mean_kl, result.total_bytes), default=None)


def table(tried: Sequence[RecipeResult]) -> str:
    """The recipe results as a table of text."""
    head = f"{'recipe':<18}{'MB':>8}{'KL':>9}{'top-1':>8}{'tok/s':>8}  gate"
    rows = [
        f"{t.recipe:<18}{t.total_bytes / 1e6:>8.1f}{t.mean_kl:>9.4f}{t.same_top1:>8.3f}"
        f"{t.tokens_per_second:>8.0f}  {'passed' if t.passed else ', '.join(t.findings)}"
        for t in tried
    ]
    return "\n".join([head, *rows])
