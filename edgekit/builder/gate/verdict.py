"""The decision of the quality gate: metrics, thresholds, verdict. Pure.

The thresholds are edgekit's own, not a standard of the field. `strict` is for models of a billion
parameters and more: in llama.cpp's tables, good 4-bit models of that size have a mean KL divergence
of .01 to .07, and models that are widely regarded as damaged (3 bits) have more. Small models lose
more: a 4-bit SmolLM2-135M has .45; `small` is set a third above the figures of its sound build.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from edgekit.builder.gate.seen import PictureReport
from edgekit.errors import UsageError


class GateMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics that `inside/score.py` measures.

    Attributes:
        loads, load_error: whether the runtime loads the folder, and why not.
        positions, texts: number of predicted tokens, and of texts.
        kl_mean, kl_median, kl_p99: KL(reference ‖ model) by token, in nats.
        kl_error: standard error of the mean over the texts.
        top1: share of positions where model and reference have the same most likely token.
        perplexity_ratio: the model's perplexity on the text, divided by the reference's.
        greedy_texts: number of prompts that were continued greedily.
        loops, reference_loops: continuations that repeat 8 tokens at least 4 times; None where
            the reference was too large to write.
        ended, reference_ended: continuations that ended with a stop token.
        templates, template_mismatches: rendered chats, and those that differ from Hugging Face's.
        token_texts, token_mismatches: tokenised texts, and those that differ from Hugging Face's.
        template_example, token_example: the first difference.
        tokens_per_second: greedy decoding on this machine; for information only.
        weight_error: largest relative error (Euclidean norm) of a row of a quantised matrix against
            its source; None when no matrix could be matched with its source. Rounding to 4 bits
            in blocks of 32 makes about .08, and at most about .22 for any distribution of the
            row; a row that is zero, doubled or swapped has 1 or more.
        weight_example: the name of that matrix.
        rotary_error: largest difference of a cosine or sine in the rotary tables from Hugging
            Face's; None where they could not be compared. In short texts a wrong base hardly
            changes the logits.
        long_positions, long_kl: number of scored tokens of a text whose end repeats its beginning,
            and their mean KL divergence; None where the model's context is too short for it.
        cache_positions, cache_kl: tokens of the same text that were read through the cache, in
            pieces and singly, and their mean KL divergence from the same model's logits when it
            reads the text at once. Other kernels make about .0001; crossed caches .02 and more.
        cache_error: why the runtime could not read it so; cache_kl is NaN then.
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
    long_positions: int = 0
    long_kl: float | None = None
    cache_positions: int = 0
    cache_kl: float | None = None
    cache_error: str = ""

    @property
    def loops_added(self) -> float:
        """Share of the continuations that loop, minus the reference's share; at least 0."""
        return _share(self.loops - (self.reference_loops or 0), self.greedy_texts)

    @property
    def ends_lost(self) -> float:
        """Share of the continuations that the reference ends, minus the model's share; at least 0.

        Where the reference wrote nothing: 1 when no continuation of a chat model ends, else 0.
        """
        if self.reference_ended is None:
            return float(self.ended == 0 and self.templates > 0)
        return _share(self.reference_ended - self.ended, self.greedy_texts)


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two bounds of one metric: beyond `warn` the gate warns, beyond `refuse` it refuses."""

    warn: float
    refuse: float


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of a profile; that of `top1` is a lower bound, the others are upper bounds."""

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
    long_kl: Limit
    cache_kl: Limit


class Violation(msgspec.Struct, frozen=True):
    """One metric beyond its limit.

    Attributes:
        name: the metric, or `loads`.
        measured, limit: the value, and the bound that it crosses.
        message: one line for a human.
    """

    name: str
    measured: float
    limit: float
    message: str


class Verdict(msgspec.Struct, frozen=True):
    """The gate's decision on a model, with the violations that refuse it and those that warn."""

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
        export: from Hugging Face to the builder's fp32 ONNX.
        weights: from there to the built graph with float32 activations.
        activations: from there to the graph as it was built.
        positions: number of predicted tokens.
        largest: the step that loses most.
    """

    export: float
    weights: float
    activations: float
    positions: int
    largest: Literal["export", "weights", "activations"]


class MatrixError(msgspec.Struct, frozen=True):
    """Error of one quantised matrix against its source.

    Attributes:
        name: name of its node in model.onnx.
        layer: number of its layer; None for the head.
        error: relative error, Frobenius norm.
        worst_row: relative error of its worst row.
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


class GateTime(msgspec.Struct, frozen=True):
    """The time that a gate took, in seconds; see `GateReport`."""

    seconds: float
    announced_seconds: float
    extra_seconds: float


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole result of the gate, as it goes into the model folder and the bundle.

    Attributes:
        tokens: KL divergence by token of every text.
        matrices: error of every quantised matrix that could be matched with its source.
        layers: loss of each layer; None where it was not measured.
        attribution: None where it was not measured, as for a model that passed.
        reference: figures about the reference: parameters, positions, `cached`, seconds.
        notes: what could not be measured beside the verdict, and why, one line each.
        seconds: wall-clock time of the whole gate.
        announced_seconds: the time that was announced early on; 0 where the gate ended before.
        extra_seconds: the built model's share of it for the long text and the cache.
        pictures: unset for a model that takes none.
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
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    announced_seconds: float = 0.0
    extra_seconds: float = 0.0
    pictures: PictureReport | msgspec.UnsetType = msgspec.UNSET
    format: int = 1

    @property
    def time(self) -> GateTime:
        """The time that it took."""
        return GateTime(self.seconds, self.announced_seconds, self.extra_seconds)


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
        long_kl=Limit(0.05, 0.1),
        cache_kl=Limit(0.002, 0.005),
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
        long_kl=Limit(0.4, 0.6),
        cache_kl=Limit(0.002, 0.005),
    ),
}

_NAMES = tuple(name for name in Thresholds.__struct_fields__ if name != "profile")
_MESSAGES = {
    "kl_mean": "its predictions are far from full precision: mean KL divergence {measured:.3f}",
    "kl_p99": "some predictions are far from full precision: 99 % KL divergence {measured:.2f}",
    "top1": "its best token is full precision's at only {measured:.1%} of the positions",
    "perplexity_ratio": "its perplexity is {measured:.2f} times that of full precision",
    "loops_added": "it repeats itself: {measured:.0%} more looping answers than full precision",
    "ends_lost": "it does not come to an end: {measured:.0%} of the answers do not stop",
    "template_mismatches": "its chat template is not Hugging Face's: {example}",
    "token_mismatches": "its tokenizer is not Hugging Face's: {example}",
    "rotary_error": "its rotary position tables are not Hugging Face's: off by {measured:.2f}",
    "long_kl": "it does not see far back in a text, or not what stands there: mean KL divergence "
    "{measured:.3f} where a long text repeats its beginning",
    "cache_kl": "it answers otherwise when a text comes in pieces, through its key-value cache: "
    "mean KL divergence {measured:.3f} from its own answers to the whole text{example}",
    "weight_error": "a row of the matrix {example} is {measured:.0%} away from its source",
}


def find_thresholds(profile: str, overrides: Mapping[str, float] | None = None) -> Thresholds:
    """The thresholds of a profile, with the limits that the user replaces.

    Args:
        overrides: metric -> bound of refusal. A stricter bound than the profile's warning bound
            replaces that one, too.

    Raises:
        UsageError: an unknown profile or metric, or a limit that is not a finite number.
    """
    if profile not in PROFILES:
        raise _unknown("profile", profile, tuple(PROFILES))
    changed: dict[str, Limit] = {}
    for name, value in (overrides or {}).items():
        if name not in _NAMES:
            raise _unknown("threshold", name, _NAMES)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise UsageError(
                f"the threshold {name} must be a number of 0 or more, not {value!r}",
                next_step="write it like --threshold kl_mean=0.1",
            )
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
    """Compare the metrics with the limits; NaN refuses the model."""
    if not metrics.loads:
        loads = Violation("loads", 0, 1, f"the runtime does not load it: {metrics.load_error}")
        return Verdict(False, (loads,), ())
    findings: list[Violation] = []
    warnings: list[Violation] = []
    for name in _NAMES:
        measured, limit = getattr(metrics, name), getattr(thresholds, name)
        if measured is None:  # e.g. for a weight format that the gate does not read
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
        "cache_kl": metrics.cache_error and f": {metrics.cache_error}",
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
