"""`edgekit check`: lint, and with a source the gate, of a model folder that is there already.

The folder may be built elsewhere or edited by hand; nothing is written to it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.files import matches, scratch
from edgekit.builder.gate.measure import Subject, assess
from edgekit.builder.gate.verdict import (
    GateMetrics,
    GateReport,
    GateTime,
    Thresholds,
    Verdict,
)
from edgekit.builder.lint.check import compare, has_template_of, read_facts, sort_findings
from edgekit.builder.lint.claimed import claimed, heard, unlike
from edgekit.builder.lint.facts import FolderFacts
from edgekit.builder.lint.finding import Finding, warn
from edgekit.builder.lint.rules import lint
from edgekit.builder.lint.source import UNREADABLE, unlike_source
from edgekit.builder.make.told import as_told
from edgekit.builder.output.publish import read_record
from edgekit.builder.request.optionfiles import hash_option_files
from edgekit.builder.source.configfile import read_config
from edgekit.builder.source.find import LocalSource, find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.spec import BuildRecord, BuildSpec, VisionPrecision
from edgekit.builder.support.pictures import takes_pictures
from edgekit.builder.tools.job import ToolchainSource
from edgekit.builder.tools.progress import ProgressCallback
from edgekit.core.buildinfo import RECORD_NAME
from edgekit.data import cache_root
from edgekit.errors import UsageError, VerificationError

CONFIG = "genai_config.json"


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `edgekit check` is asked.

    Attributes:
        folder: the model folder.
        model: the source, as `build -m` takes it; None runs the lint alone.
        revision, hub_cache: of a source on the hub, as `build` takes them.
        adapter: the LoRA adapter that was merged in, or None.
        thresholds: limits of the gate.
    """

    folder: Path
    thresholds: Thresholds
    model: str | None = None
    revision: str | None = None
    hub_cache: Path | None = None
    adapter: Path | None = None


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's part of a check: fields of `GateReport`."""

    profile: str
    verdict: Verdict
    metrics: GateMetrics
    notes: tuple[str, ...]
    time: GateTime


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a check.

    Attributes:
        passed: no finding refuses, and the gate, if it ran, passed.
        findings: of the lint, refusals first.
        gate: None where it did not run.
        seconds: wall-clock time of the whole check.
        notes: what was not checked, and why, one line each.
    """

    folder: Path
    passed: bool
    findings: tuple[Finding, ...]
    gate: GateCheck | None
    seconds: float
    notes: tuple[str, ...] = ()


def check(
    request: CheckRequest, report: ProgressCallback, toolchain: ToolchainSource
) -> CheckResult:
    """Check a model folder; a bad one is a result, not an error.

    Raises:
        UsageError: the folder is no model folder, the source is missing or does not fit, or the
            gate cannot run on this folder's provider.
        UnreachableError: the source is on the hub and the hub does not answer.
        EdgekitError: a step failed.
    """
    started = time.monotonic()
    folder = request.folder.expanduser().resolve()
    refuse_other_folders(folder)
    record = read_record(folder)
    _refuse_adapter(request, record)
    found = source = config = None
    if request.model is not None:
        found = find(request.model, request.revision, request.hub_cache, report)
        gguf = found.source.kind == "gguf"
        source = dequantised(found, toolchain, report) if gguf else found.path
        config = read_config(source)
    ready = toolchain.ready(report)
    with scratch(cache_root() / "logs") as work:
        facts = read_facts(folder, ready, work, report)
        if source is not None and takes_pictures(config or {}):
            source, _ = as_told(source, work)  # read without the repository's code
        if config is not None:
            _refuse_unlike(folder, request, facts, config, record)
        findings, known = _linted(folder, facts, record, source, config)
        whole = not UNREADABLE & {finding.name for finding in findings}
        if source is not None and whole:
            trusted = record is not None and record.trust_remote_code
            compared = compare(folder, source, ready, work, report, facts.graph_name, trusted)
            findings = sort_findings((*findings, *unlike_source(compared)))
        gate = None
        if found is not None and source is not None and facts.graph is not None:
            spec = _spec(found, record, request, toolchain.digest, _vision(record, facts, config))
            subject = Subject(folder, source, spec, request.adapter)
            measured = assess(
                subject, request.thresholds, ready, report, attribution=False, sensitivity=False
            )
            gate = _summary(measured)
    refused = any(finding.severity == "refuse" for finding in findings)
    return CheckResult(
        folder=folder,
        passed=not refused and (gate is None or gate.verdict.passed),
        findings=findings,
        gate=gate,
        seconds=round(time.monotonic() - started, 1),
        notes=_notes(known=known, with_source=found is not None, gated=gate is not None),
    )


def refuse_other_folders(folder: Path) -> None:
    """Refuse what is no folder of a built model.

    Raises:
        UsageError: it does not exist, is a file, or has no genai_config.json.
    """
    if not folder.exists():
        raise UsageError(
            f"there is no {folder}", next_step="name a folder that a model builder made"
        )
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is a file, not a model folder",
            next_step="name a folder that a model builder made"
            if folder.suffix != ".gguf"
            else f"build it first: edgekit build -m {folder.name} -o FOLDER",
        )
    if (folder / CONFIG).is_file():
        return
    original = (folder / "config.json").is_file()
    raise UsageError(
        f"{folder.name} is not a model folder for onnxruntime-genai",
        why=f"it has no {CONFIG}"
        + (", only a config.json: it is a model before its build" if original else ""),
        next_step=f"build it first: edgekit build -m {folder.name} -o FOLDER"
        if original
        else "name a folder that a model builder made",
    )


def refuse_failed(result: CheckResult) -> None:
    """Turn a result that did not pass into an error that names every reason.

    Raises:
        VerificationError: the check did not pass.
    """
    if result.passed:
        return
    reasons = [f"{f.name}: {f.message}" for f in result.findings if f.severity == "refuse"]
    if result.gate:
        reasons += [f"{f.name}: {f.message}" for f in result.gate.verdict.findings]
    raise VerificationError(
        f"{result.folder.name} did not pass",
        why="; ".join(reasons),
        next_step="do not ship it: build it again from its source",
    )


def _refuse_adapter(request: CheckRequest, record: BuildRecord | None) -> None:
    if request.adapter is not None and not request.adapter.is_dir():
        raise UsageError(
            f"there is no adapter folder {request.adapter}",
            next_step="name the folder with adapter_config.json",
        )
    merged = record is not None and "adapter_path" in record.spec.option_files
    if request.model is not None and merged and request.adapter is None:
        raise UsageError(
            "the model holds an adapter, its source alone is not what it was built from",
            why=f"{RECORD_NAME} names the option adapter_path",
            next_step="name the adapter's folder with --adapter",
        )


def _refuse_unlike(
    folder: Path, request: CheckRequest, facts: FolderFacts, config: dict[str, Any],
    record: BuildRecord | None,
) -> None:  # fmt: skip
    provider = next(iter(facts.config.providers if facts.config else ()), "cpu")
    if provider != "cpu":
        raise UsageError(
            f"{folder.name} is for {provider}, this machine's CPU cannot measure it",
            next_step="leave -m out: the lint alone reads it",
        )
    if facts.config is None:
        return
    differences = unlike(facts.config, config, record.spec.options if record else {})
    # one alone may be a defect of the folder, which the lint names
    if len(differences) > 1:
        raise UsageError(
            f"{request.model} is not what {folder.name} was built from",
            why="; ".join(differences),
            next_step="name its source with -m, or leave -m out to run the lint alone",
        )


def _linted(
    folder: Path, facts: FolderFacts, record: BuildRecord | None, source: Path | None,
    config: dict[str, Any] | None,
) -> tuple[tuple[Finding, ...], bool]:  # fmt: skip
    """The findings, and whether those about the request are among them."""
    template = has_template_of(source) if source else facts.has_template
    asked, known = claimed(facts, record.spec if record else None, config, has_template=template)
    findings = heard(lint(facts, asked), known=known)
    if record and not matches(folder, record.files):
        text = "files are not those of the build"
        findings += (warn("edited", text, RECORD_NAME, "equal", "other bytes"),)
    return findings, known


def _spec(
    found: LocalSource,
    record: BuildRecord | None,
    request: CheckRequest,
    lock: str,
    vision: VisionPrecision | msgspec.UnsetType,
) -> BuildSpec:
    """What the gate's cache knows a source by; the adapter, too."""
    adapter = {"adapter_path": str(request.adapter)} if request.adapter else {}
    files = hash_option_files(adapter).files
    precision = record.spec.precision if record else "int4"
    return BuildSpec(found.source, precision, "cpu", {}, files, lock, vision=vision)


def _vision(
    record: BuildRecord | None, facts: FolderFacts, config: dict[str, Any] | None
) -> VisionPrecision | msgspec.UnsetType:
    """The precision of the folder's vision part; unset without one."""
    if record:
        return record.spec.vision
    part = facts.parts.get("vision.onnx")
    if part is None or not takes_pictures(config or {}):
        return msgspec.UNSET
    return "int8" if part.bits else "fp32"


def _summary(report: GateReport) -> GateCheck:
    return GateCheck(
        profile=report.profile,
        verdict=report.verdict,
        metrics=report.metrics,
        notes=report.notes,
        time=report.time,
    )


def _notes(*, known: bool, with_source: bool, gated: bool) -> tuple[str, ...]:
    notes = []
    if not known:
        notes.append("the options of its build are unknown: bits and blocks were taken as they are")
    if not with_source:
        notes.append("without its source (-m) the model was not compared or measured")
    elif not gated:
        notes.append("the graph cannot be read: the model was not measured")
    return tuple(notes)
