"""Makes the candidate models, runs the gate on each, and keeps the one that the ladder chooses."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgekit.builder.gate.ladder import RecipeResult, goes_on, kept, table
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.page import encode, page
from edgekit.builder.gate.verdict import GateReport, Thresholds
from edgekit.builder.make.make import FinishedModel, Ingredients, make
from edgekit.builder.make.prepare import Candidate
from edgekit.builder.request.target import GATED_PROVIDERS
from edgekit.builder.spec import GateSummary
from edgekit.builder.tools.job import Toolchain
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import GATE_PAGE_NAME, GATE_REPORT_NAME
from edgekit.data import cache_root
from edgekit.errors import VerificationError

_LOSSES = frozenset(
    {
        *("kl_mean", "kl_p99", "top1", "perplexity_ratio", "loops_added", "ends_lost", "long_kl"),
        *("picture_kl", "picture_first"),
    }
)
"""Violations that more bits cure."""


class Setup(msgspec.Struct, frozen=True):
    """The inputs that all candidates of a build share.

    Attributes:
        toolchain: runs the scripts of `inside/`.
        folder: the Hugging Face folder of the source.
        route: `auto`, `low-memory` or `stock`.
        reads: files and folders that options name.
        thresholds: limits of the gate; None skips the gate.
    """

    toolchain: Toolchain
    folder: Path
    route: str
    reads: tuple[Path, ...]
    thresholds: Thresholds | None


class Attempt(msgspec.Struct, frozen=True):
    """A candidate after it was made and measured; `gate` is None where the gate did not run."""

    candidate: Candidate
    made: FinishedModel
    gate: GateReport | None

    @property
    def result(self) -> RecipeResult:
        """The figures that the ladder compares."""
        gate = self.gate
        return RecipeResult(
            recipe=self.candidate.recipe,
            total_bytes=self.made.total_bytes,
            passed=gate is None or gate.verdict.passed,
            mean_kl=gate.metrics.kl_mean if gate else 0.0,
            same_top1=gate.metrics.top1 if gate else 0.0,
            tokens_per_second=gate.metrics.tokens_per_second if gate else 0.0,
            findings=tuple(f.name for f in gate.verdict.findings) if gate else (),
        )

    @property
    def summary(self) -> GateSummary | None:
        """The gate's part of build.json; None where the gate did not run."""
        gate = self.gate
        if gate is None:
            return None
        return GateSummary(
            profile=gate.profile,
            thresholds=thresholds_digest(gate.thresholds),
            passed=gate.verdict.passed,
            mean_kl=gate.metrics.kl_mean,
        )


def thresholds_digest(thresholds: Thresholds) -> str:
    """Sha256 (hex) of the thresholds' canonical JSON: keys sorted, no spaces."""
    return hashlib.sha256(msgspec.json.encode(thresholds, order="sorted")).hexdigest()


def attempt_all(
    setup: Setup,
    candidates: Sequence[Candidate],
    budget_bytes: int | None,
    work: Path,
    report: ProgressCallback,
) -> tuple[Attempt, tuple[RecipeResult, ...]]:
    """Make candidates until the ladder ends.

    Returns:
        The attempt that is kept, and the results of all attempts in their order.

    Raises:
        VerificationError: no candidate passes; the report of the last one is kept in the cache.
        EdgekitError: a candidate could not be made.
    """
    best: Attempt | None = None
    last: Attempt | None = None
    tried: list[RecipeResult] = []
    for number, candidate in enumerate(candidates):
        if not goes_on(tried, budget_bytes):
            break
        place = work / f"{number}"
        place.mkdir()
        last = _attempt(setup, candidate, place, report, single=len(candidates) == 1)
        tried.append(last.result)
        if kept(tried, budget_bytes) == last.result:
            if best:
                shutil.rmtree(best.made.folder.parent)
            best = last
        else:
            shutil.rmtree(last.made.folder)
    if best is None:
        assert last is not None, "there is always a candidate"
        raise _refusal(last, tried, budget_bytes)
    return best, tuple(tried)


def _attempt(
    setup: Setup, candidate: Candidate, work: Path, report: ProgressCallback, *, single: bool
) -> Attempt:
    def shown(progress: Progress) -> None:
        # with several candidates, each line names the one that it belongs to
        named = progress.detail if single else f"{candidate.recipe}: {progress.detail}"
        report(msgspec.structs.replace(progress, detail=named))

    ingredients = Ingredients(
        candidate.spec, setup.folder, candidate.options, setup.route, setup.reads
    )
    made = make(setup.toolchain, ingredients, work, shown)
    if setup.thresholds is None or candidate.spec.provider not in GATED_PROVIDERS:
        return Attempt(candidate, made, None)
    adapter = candidate.options.get("adapter_path")
    merged = Path(adapter) if adapter else None
    source = made.told if candidate.spec.vision else setup.folder
    subject = Subject(made.folder, source, candidate.spec, merged, made.told)
    gate = assess(subject, setup.thresholds, setup.toolchain, shown)
    return Attempt(candidate, made, gate)


def write_report(attempt: Attempt, tried: Sequence[RecipeResult], folder: Path) -> None:
    """Write `gate.json` and `report.html` of a model, if the gate ran."""
    if attempt.gate is None:
        return
    title = f"{attempt.candidate.spec.source.name}, {attempt.candidate.recipe or 'own options'}"
    (folder / GATE_REPORT_NAME).write_bytes(encode(attempt.gate))
    tried = tried if len(tried) > 1 else ()
    (folder / GATE_PAGE_NAME).write_text(page(title, attempt.gate, tried), encoding="utf-8")


def _refusal(
    last: Attempt, tried: Sequence[RecipeResult], budget_bytes: int | None
) -> VerificationError:
    kept_at = cache_root() / "logs"
    kept_at.mkdir(parents=True, exist_ok=True)
    write_report(last, tried, kept_at)
    assert last.gate is not None, "only a gate refuses"
    page_at = f"the whole report is {kept_at / GATE_PAGE_NAME}"
    if len(tried) > 1:
        way = way_out(last.gate, budget=budget_bytes is not None, auto=True)
        return VerificationError(
            "no recipe is good enough", why="\n" + table(tried), next_step=f"{way}; {page_at}"
        )
    messages = [finding.message for finding in last.gate.verdict.findings]
    loss = last.gate.attribution
    blamed = (f"most is lost by the {loss.largest}",) if loss else ()
    return VerificationError(
        f"the model is not good enough: {', '.join(f.name for f in last.gate.verdict.findings)}",
        why="; ".join((*messages, *blamed, *last.gate.notes)),
        next_step=f"{way_out(last.gate)}; {page_at}",
    )


def way_out(gate: GateReport, *, budget: bool = False, auto: bool = False) -> str:
    """What to do about a refused model.

    Args:
        budget: a limit of the size was given.
        auto: every recipe was tried.
    """
    named = {finding.name for finding in gate.verdict.findings}
    if "picture_features" in named and gate.pictures and gate.pictures.vision == "int8":
        return "build the vision part in full precision: --vision-precision fp32"
    if named - _LOSSES:
        # no recipe and no profile changes a tokenizer, a table or a row of another model
        return "take another model of that size; --no-gate builds this one, marked as not measured"
    ways = []
    if budget:
        ways.append("take a larger --budget")
    elif not auto:
        ways.append("try --recipe auto")
    if gate.profile != "small":
        ways.append("take a profile that fits a model below half a billion weights (--gate small)")
    return " or ".join(ways) or "take a larger model, or change a limit openly (--threshold)"
