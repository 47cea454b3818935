"""Runs one build, from the request to a complete output folder, or to none at all."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from edgekit.builder.attempt import Attempt, Setup, attempt_all, thresholds_digest, write_report
from edgekit.builder.gate.ladder import RecipeResult
from edgekit.builder.gate.verdict import GateTime, Thresholds, find_thresholds
from edgekit.builder.make.prepare import prepare, refuse_unsound, refuse_unsupported
from edgekit.builder.output.provenance import provenance_bytes
from edgekit.builder.output.publish import check_out, publish, up_to_date, workplace
from edgekit.builder.request.request import BuildRequest, check_request
from edgekit.builder.source.configfile import read_config
from edgekit.builder.source.find import licences
from edgekit.builder.source.gguf import dequantised, header_config
from edgekit.builder.spec import BuildRecord, GateSummary
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.job import ToolchainSource
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import PROVENANCE_NAME, RECORD_NAME, FileRecord
from edgekit.errors import EdgekitError


class BuildResult(msgspec.Struct, frozen=True):
    """The outcome of a build, as `edgekit build` prints it.

    Attributes:
        files: relative path -> sha256 and size of the model's files.
        total_bytes: sum of the sizes.
        seconds: wall-clock time of the whole build, from the request to the folder.
        builder_seconds: the model builder's share of it; 0 when `up_to_date`.
        peak_rss_bytes: peak memory of the model builder; 0 when `up_to_date`.
        up_to_date: the folder already held this build, and nothing was made.
        recipe: the recipe's name; empty when the user spelled the options out.
        route: `low-memory` or `stock`.
        gate: the gate's summary; None when the model was not tested.
        recipe_results: the recipes that `auto` tried; empty for a single one.
        gate_time: what the gate of this model took now; None where it did not run.
        notes: remarks for the user, one line each.
    """

    out: Path
    build_id: str
    files: dict[str, FileRecord]
    total_bytes: int
    seconds: float
    builder_seconds: float
    peak_rss_bytes: int
    up_to_date: bool
    recipe: str = ""
    route: str = msgspec.field(default="", name="path")
    gate: GateSummary | None = None
    recipe_results: tuple[RecipeResult, ...] = msgspec.field(default=(), name="trials")
    notes: tuple[str, ...] = ()
    gate_time: GateTime | None = None


def build(
    request: BuildRequest, report: ProgressCallback, toolchain: ToolchainSource | None = None
) -> BuildResult:
    """Build a model folder, unless the output already holds this build.

    Args:
        report: called for every step, at least once a second.
        toolchain: default: the toolchain of this host.

    Raises:
        UsageError: the request cannot be met; nothing was done.
        UnreachableError: the model is on the hub and the hub does not answer.
        VerificationError: the model differs from the request, or the gate refuses it.
        EdgekitError: a step failed; the output folder is as it was before.
    """
    try:
        return _build(request, report, toolchain or HostToolchain())
    except OSError as error:
        raise EdgekitError(
            "the build could not read or write a file",
            why=f"{error.strerror or error}: {error.filename}" if error.filename else str(error),
            next_step="check the free space and the rights of the folders involved",
        ) from error


def _build(
    request: BuildRequest, report: ProgressCallback, toolchain: ToolchainSource
) -> BuildResult:
    started = time.monotonic()
    out = request.out.expanduser().resolve()
    check_out(out)
    thresholds = find_thresholds(request.gate, request.thresholds) if request.gate else None
    prepared = prepare(request, toolchain.digest, report)
    report(Progress("source", "comparing with what is there"))
    for candidate in prepared.candidates:
        record = up_to_date(out, candidate.spec.build_id())
        if record and record.asked == request.asked and _has_passed(record, thresholds):
            return _result(out, record, started, prepared.notes)
    folder = prepared.found.path
    if prepared.found.source.kind == "gguf":
        checked = check_request(request)
        refuse_unsupported(header_config(prepared.found), checked, request)
        folder = dequantised(prepared.found, toolchain, report)
        refuse_unsound(folder, read_config(folder), checked)
    setup = Setup(toolchain.ready(report), folder, request.route, prepared.reads, thresholds)
    with workplace(out) as work:
        best, tried = attempt_all(setup, prepared.candidates, request.budget_bytes, work, report)
        record = _record(best, request, toolchain)
        model = best.made.folder
        write_report(best, tried, model)
        for licence in licences(folder):
            shutil.copyfile(licence, model / licence.name)
        (model / PROVENANCE_NAME).write_bytes(provenance_bytes(record))
        (model / RECORD_NAME).write_bytes(_pretty(record))
        report(Progress("publish", "flushing them to the disk"))
        publish(model, out)
    notes = prepared.notes + (best.gate.notes if best.gate else ())
    return _result(out, record, started, notes, best, tried)


def _has_passed(record: BuildRecord, thresholds: Thresholds | None) -> bool:
    """Whether the recorded build passed a gate with these thresholds."""
    if thresholds is None:
        return True
    return record.gate is not None and record.gate.thresholds == thresholds_digest(thresholds)


def _record(best: Attempt, request: BuildRequest, toolchain: ToolchainSource) -> BuildRecord:
    converted = best.made.converted
    return BuildRecord(
        build_id=best.candidate.spec.build_id(),
        spec=best.candidate.spec,
        files=best.made.files,
        tools=toolchain.tools,
        seconds=round(converted.finished.seconds, 1),
        recipe=best.candidate.recipe,
        asked=request.asked,
        route=converted.route,
        isolation=toolchain.isolation,
        image=toolchain.image,
        gate=best.summary,
    )


def _pretty(record: BuildRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def _result(
    out: Path,
    record: BuildRecord,
    started: float,
    notes: tuple[str, ...],
    best: Attempt | None = None,
    tried: tuple[RecipeResult, ...] = (),
) -> BuildResult:
    made = best.made if best else None
    if made and made.converted.note:
        notes += (made.converted.note,)
    notes += made.warnings if made else ()
    return BuildResult(
        out=out,
        build_id=record.build_id,
        files=record.files,
        total_bytes=sum(file.size for file in record.files.values()),
        seconds=round(time.monotonic() - started, 1),
        builder_seconds=record.seconds if made else 0.0,
        peak_rss_bytes=made.converted.finished.peak_rss_bytes if made else 0,
        up_to_date=made is None,
        recipe=record.recipe,
        route=record.route,
        gate=record.gate,
        recipe_results=tried if len(tried) > 1 else (),
        notes=notes,
        gate_time=best.gate.time if best and best.gate else None,
    )
