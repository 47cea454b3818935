"""What `--recipe auto` tries and keeps. Pure: sizes and verdicts in, a decision out.

Without a budget the ladder is walked from the smallest rung up and ends with the first that passes
the gate: the smallest good model. With a budget every rung that fits is tried and the one closest
to full precision is kept: the best model for that many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class RecipeResult(msgspec.Struct, frozen=True):
    """A recipe that was built and measured.

    Attributes:
        recipe: its name.
        total_bytes: of the model folder.
        passed: whether it passed the gate.
        mean_kl: mean KL divergence to full precision, nats per token.
        same_top1: share of positions where the most likely token is the reference's.
        tokens_per_second: greedy decoding on this machine.
        findings: why it was refused, by name.
    """

    recipe: str
    total_bytes: int
    passed: bool
    mean_kl: float
    same_top1: float
    tokens_per_second: float
    findings: tuple[str, ...] = ()


def goes_on(tried: Sequence[RecipeResult], budget_bytes: int | None) -> bool:
    """Whether the next rung is to be tried after these."""
    return budget_bytes is not None or not any(result.passed for result in tried)


def fits(predicted_bytes: int, budget_bytes: int | None) -> bool:
    """Whether a rung of that predicted size is tried at all."""
    return budget_bytes is None or predicted_bytes <= budget_bytes


def kept(tried: Sequence[RecipeResult], budget_bytes: int | None) -> RecipeResult | None:
    """The recipe result whose model becomes the result, or None when none may."""
    good = [result for result in tried if result.passed and fits(result.total_bytes, budget_bytes)]
    if budget_bytes is None:
        return min(good, key=lambda result: result.total_bytes, default=None)
    return min(good, key=lambda result: (result.mean_kl, result.total_bytes), default=None)


def table(tried: Sequence[RecipeResult]) -> str:
    """The tried as lines for people."""
    head = f"{'recipe':<18}{'MB':>8}{'KL':>9}{'top-1':>8}{'tok/s':>8}  gate"
    rows = [
        f"{t.recipe:<18}{t.total_bytes / 1e6:>8.1f}{t.mean_kl:>9.4f}{t.same_top1:>8.3f}"
        f"{t.tokens_per_second:>8.0f}  {'passed' if t.passed else ', '.join(t.findings)}"
        for t in tried
    ]
    return "\n".join([head, *rows])
