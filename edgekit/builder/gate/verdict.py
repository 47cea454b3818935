"""The quality gate's decision: what was measured, what is allowed, what that comes to.

Pure. Thresholds are edgekit's own, not a standard of the field. `strict` is for models of a
billion parameters and more: llama.cpp's tables put good 4-bit models of that size at a mean KL
divergence of .01 to .07, and what is widely felt as damaged (3 bits) above. Small models lose
more: a 4-bit SmolLM2-135M is at .45, so `small` is set a third above what its healthy build gets.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from edgekit.errors import UsageError

"""The file in a model folder that holds a `GateReport`."""


class GateMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What `inside/score.py` measured.

    Attributes:
        loads, load_error: whether the runtime takes the folder, and why not.
        positions, texts: tokens that were predicted, in so many texts.
        kl_mean, kl_median, kl_p99: KL(reference ‖ model) by token, in nats.
        kl_error: standard error of the mean over the texts.
        top1: share of positions where both have the same most likely token.
        perplexity_ratio: the model's on the text, divided by the reference's.
        greedy_texts: prompts that were continued greedily.
        loops, reference_loops: continuations that repeat 8 tokens at least 4 times; None where
            the reference was too large to write.
        ended, reference_ended: continuations that came to their end.
        templates, template_mismatches: chats rendered, and those unlike Hugging Face's.
        token_texts, token_mismatches: texts tokenised, and those unlike Hugging Face's.
        template_example, token_example: the first difference.
        tokens_per_second: greedy decoding here; information only.
        weight_error: largest relative error (Euclidean norm) of a row of a quantised matrix against
            its source, where the two could be matched; None when none could. Rounding to 4 bits
            in blocks of 32 makes .08 and cannot make more than about .22 of it, however the row
            is distributed; a row that is zeroed, doubled or another one is at 1 and above.
        weight_example: the name of that matrix.
        rotary_error: largest difference of a cosine in the rotary tables from Hugging Face's; None
            where they could not be compared. A wrong base hardly shows in short texts.
    """

    loads: bool
    load_error: str = ""
    positions: int = 0
    texts: int = 0
    kl_mean: float = math.nan
    kl_error: float = math.nan
    kl_median: float = math.nan
    kl_p99: float = math.nan
    top1: float = math.nan
    perplexity_ratio: float = math.nan
    greedy_texts: int = 0
    loops: int = 0
    ended: int = 0
    reference_loops: int | None = None
    reference_ended: int | None = None
    templates: int = 0
    template_mismatches: int = 0
    template_example: str = ""
    token_texts: int = 0
    token_mismatches: int = 0
    token_example: str = ""
    tokens_per_second: float = 0.0
    weight_error: float | None = None
    weight_example: str = ""
    rotary_error: float | None = None

    @property
    def loops_added(self) -> float:
        """Share of the continuations that loop, beyond the reference's own."""
        return _share(self.loops - (self.reference_loops or 0), self.greedy_texts)

    @property
    def ends_lost(self) -> float:
        """Share of the continuations that end for the reference and not for the model.

        Where the reference wrote nothing: 1 when none ends, else 0.
        """
        if self.reference_ended is None:
            return float(self.ended == 0 and self.templates > 0)
        return _share(self.reference_ended - self.ended, self.greedy_texts)


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two bounds of one metric: beyond `warn` it is said, beyond `refuse` there is no model."""

    warn: float
    refuse: float


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of a profile; `top1` is a lower one, the others are upper ones."""

    profile: str
    kl_mean: Limit
    kl_p99: Limit
    top1: Limit
    perplexity_ratio: Limit
    loops_added: Limit
    ends_lost: Limit
    template_mismatches: Limit
    token_mismatches: Limit
    weight_error: Limit
    rotary_error: Limit


class Violation(msgspec.Struct, frozen=True):
    """One metric beyond its limit.

    Attributes:
        name: the metric, or `loads`.
        measured, limit: the value and the bound that it crosses.
        message: one line for a human.
    """

    name: str
    measured: float
    limit: float
    message: str


class Verdict(msgspec.Struct, frozen=True):
    """Whether the model is good enough, what refuses it and what is only worth saying."""

    passed: bool
    findings: tuple[Violation, ...]
    warnings: tuple[Violation, ...]


class TextKl(msgspec.Struct, frozen=True):
    """KL divergence by token of one text."""

    text: str
    kl: tuple[float, ...]


class Attribution(msgspec.Struct, frozen=True):
    """Where the loss comes from: mean KL divergence of each step against the one before.

    Attributes:
        export: Hugging Face to the builder's fp32 ONNX.
        weights: that to the built graph with float32 activations.
        activations: that to the graph as it was built.
        positions: how many were measured.
        largest: the step that loses most.
    """

    export: float
    weights: float
    activations: float
    positions: int
    largest: Literal["export", "weights", "activations"]


class MatrixError(msgspec.Struct, frozen=True):
    """One quantised matrix against its source.

    Attributes:
        name: of its node in model.onnx.
        layer: its number; None for the head.
        error: relative error, Frobenius norm.
        worst_row: that of its worst row.
    """

    name: str
    layer: int | None
    bits: int
    error: float
    worst_row: float


class LayerLoss(msgspec.Struct, frozen=True):
    """Mean KL divergence when this layer alone is quantised."""

    layer: int
    kl: float


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the gate found, as it goes into the model folder and the bundle.

    Attributes:
        tokens: KL by token of every text.
        matrices: error of every quantised matrix that could be matched with its source.
        layers: what each layer loses; None where it was not measured.
        attribution: None for a model that passed, and where it does not fit.
        reference: how the reference came about: parameters, positions, `cached`, seconds.
        seconds: wall-clock time of the whole gate.
    """

    profile: str
    thresholds: Thresholds
    metrics: GateMetrics
    verdict: Verdict
    tokens: tuple[TextKl, ...] = ()
    matrices: tuple[MatrixError, ...] = ()
    layers: tuple[LayerLoss, ...] | None = None
    attribution: Attribution | None = None
    reference: dict[str, float | bool] = {}
    seconds: float = 0.0
    format: int = 1


PROFILES: dict[str, Thresholds] = {
    "strict": Thresholds(
        profile="strict",
        kl_mean=Limit(0.03, 0.07),
        kl_p99=Limit(0.3, 0.5),
        top1=Limit(0.93, 0.89),
        perplexity_ratio=Limit(1.03, 1.06),
        loops_added=Limit(0.0, 0.1),
        ends_lost=Limit(0.1, 0.25),
        template_mismatches=Limit(0, 0),
        token_mismatches=Limit(0, 0),
        weight_error=Limit(0.3, 0.45),
        rotary_error=Limit(0.01, 0.05),
    ),
    # up to half a billion parameters; k_quant gets .45, 2.13, .67 and 1.57 on SmolLM2-135M
    "small": Thresholds(
        profile="small",
        kl_mean=Limit(0.5, 0.6),
        kl_p99=Limit(2.7, 3.2),
        top1=Limit(0.63, 0.58),
        perplexity_ratio=Limit(1.75, 2.0),
        loops_added=Limit(0.2, 0.35),
        ends_lost=Limit(0.1, 0.25),
        template_mismatches=Limit(0, 0),
        token_mismatches=Limit(0, 0),
        weight_error=Limit(0.3, 0.45),
        rotary_error=Limit(0.01, 0.05),
    ),
}

_NAMES = tuple(name for name in Thresholds.__struct_fields__ if name != "profile")
_MESSAGES = {
    "kl_mean": "what it predicts is far from full precision: mean KL divergence {measured:.3f}",
    "kl_p99": "at some tokens it is far from full precision: 99 % KL divergence {measured:.2f}",
    "top1": "its best token is full precision's at only {measured:.1%} of the positions",
    "perplexity_ratio": "full precision's text surprises it: {measured:.2f} times the perplexity",
    "loops_added": "it repeats itself: {measured:.0%} more looping answers than full precision",
    "ends_lost": "it does not come to an end: {measured:.0%} of the answers run on",
    "template_mismatches": "its chat template is not Hugging Face's: {example}",
    "token_mismatches": "its tokenizer is not Hugging Face's: {example}",
    "rotary_error": "its rotary position tables are not Hugging Face's: off by {measured:.2f}",
    "weight_error": "a row of the matrix {example} is {measured:.0%} away from its source",
}


def find_thresholds(profile: str, overrides: Mapping[str, float] | None = None) -> Thresholds:
    """A named profile, with other limits where the user sets them.

    Args:
        overrides: metric -> the value beyond which a model is refused; it warns at the same.

    Raises:
        UsageError: unknown profile or metric, or a limit that is no finite number.
    """
    if profile not in PROFILES:
        raise _unknown("profile", profile, tuple(PROFILES))
    changed: dict[str, Limit] = {}
    for name, value in (overrides or {}).items():
        if name not in _NAMES:
            raise _unknown("threshold", name, _NAMES)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UsageError(f"the threshold {name} must be a number of 0 or more, not {value!r}")
        if math.isinf(value):
            raise UsageError(
                f"the threshold {name} must be finite",
                next_step="to build without the gate, say so with --no-gate",
            )
        old = getattr(PROFILES[profile], name).warn
        warn = max(old, float(value)) if name == "top1" else min(old, float(value))
        changed[name] = Limit(warn, float(value))
    return msgspec.structs.replace(PROFILES[profile], **changed)


def judge(metrics: GateMetrics, thresholds: Thresholds) -> Verdict:
    """Hold what was measured against the limits; a value that is no number refuses."""
    if not metrics.loads:
        loads = Violation("loads", 0, 1, f"the runtime does not load it: {metrics.load_error}")
        return Verdict(False, (loads,), ())
    findings: list[Violation] = []
    warnings: list[Violation] = []
    for name in _NAMES:
        measured, limit = getattr(metrics, name), getattr(thresholds, name)
        if measured is None:  # not measured, e.g. a format that the weights are not read from
            continue
        if not _within(name, measured, limit.refuse):
            findings.append(_finding(metrics, name, measured, limit.refuse))
        elif not _within(name, measured, limit.warn):
            warnings.append(_finding(metrics, name, measured, limit.warn))
    return Verdict(not findings, tuple(findings), tuple(warnings))


def _within(name: str, measured: float, limit: float) -> bool:
    return measured >= limit if name == "top1" else measured <= limit


def _finding(metrics: GateMetrics, name: str, measured: float, limit: float) -> Violation:
    examples = {
        "template_mismatches": metrics.template_example,
        "token_mismatches": metrics.token_example,
        "weight_error": metrics.weight_example,
    }
    text = _MESSAGES[name].format(measured=measured, example=examples.get(name, ""))
    return Violation(name, float(measured), limit, f"{text} (limit {limit:g})")


def _share(count: int, total: int) -> float:
    return max(0, count) / total if total else 0.0


def _unknown(kind: str, name: str, known: tuple[str, ...]) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1)
    return UsageError(
        f"unknown {kind} {name}",
        next_step=f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}",
    )
