"""`edgekit build --verify`: repeats a build and compares the results file by file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.files import list_files, record_files, scratch
from edgekit.builder.make.make import Ingredients, make
from edgekit.builder.make.told import told_digest
from edgekit.builder.output.publish import read_record
from edgekit.builder.request.optionfiles import OptionFiles, hash_option_files
from edgekit.builder.request.options import check_options
from edgekit.builder.request.request import check_route
from edgekit.builder.source.find import LocalSource, find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.spec import BuildRecord
from edgekit.builder.tools.job import ToolchainSource
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import FileRecord
from edgekit.data import cache_root
from edgekit.errors import UsageError, VerificationError


class VerifyResult(msgspec.Struct, frozen=True):
    """The outcome of a repeated build whose files are all equal.

    Attributes:
        build_id: the same in the record and in the repetition.
        files: relative path -> sha256 and size; equal in the folder, its record and the repetition.
        route, isolation: of the repetition.
        first_route, first_isolation: of the first build, from its record.
    """

    build_id: str
    files: dict[str, FileRecord]
    route: str = msgspec.field(name="path")
    isolation: str
    first_route: str = msgspec.field(name="first_path")
    first_isolation: str


def verify(
    folder: Path,
    toolchain: ToolchainSource,
    report: ProgressCallback,
    *,
    model: str | None = None,
    hub_cache: Path | None = None,
    options: dict[str, str] | None = None,
    route: str = "auto",
) -> VerifyResult:
    """Repeat the build of a model folder and compare.

    Args:
        folder: a folder that `edgekit build` made.
        model: where its source lies now; a source from the hub needs none.
        options: the options whose values are paths on this machine; the record keeps no paths.
        route: `auto`, `low-memory` or `stock`.

    Raises:
        UsageError: the build's source, option files or toolchain are missing or differ, or there
            is no such route.
        VerificationError: files differ; the error names each.
    """
    check_route(route)
    record = _record(folder)
    _compare(folder, record.files, record_files(folder, _present(folder, record)), "its build.json")
    if toolchain.digest != record.spec.toolchain:
        raise UsageError(
            "this edgekit cannot repeat that build",
            why=f"the build's toolchain lock was {record.spec.toolchain[:12]}, "
            f"this edgekit's is {toolchain.digest[:12]}",
            next_step="use the edgekit that made it",
        )
    found = _source(record, model, hub_cache, report)
    given = check_options(options or {})
    hashed = hash_option_files(given)
    _refuse_other_files(record, hashed)
    if record.spec.told and told_digest(found) != record.spec.told:
        raise UsageError(
            "this edgekit cannot repeat that build",
            why="it gives the model builder other settings in place of the source's than the one "
            "that made it did",
            next_step="use the edgekit that made it",
        )
    gguf = found.source.kind == "gguf"
    source = dequantised(found, toolchain, report) if gguf else found.path
    ready = toolchain.ready(report)
    with scratch(cache_root() / "verify") as work:
        options = {**record.spec.options, **given, **hashed.paths}
        ingredients = Ingredients(record.spec, source, options, route, hashed.reads)
        made = make(ready, ingredients, work, report)
        report(Progress("verify", "comparing"))
        _compare(folder, record.files, made.files, "the repeated build")
        return VerifyResult(
            build_id=record.build_id,
            files=made.files,
            route=made.converted.route,
            isolation=toolchain.isolation,
            first_route=record.route,
            first_isolation=record.isolation,
        )


def _record(folder: Path) -> BuildRecord:
    record = read_record(folder)
    if record is None:
        raise UsageError(
            f"{folder} is not a build of this edgekit",
            why="it has no readable build.json",
            next_step="name a folder that `edgekit build` made",
        )
    return record


def _refuse_other_files(record: BuildRecord, hashed: OptionFiles) -> None:
    if hashed.files == record.spec.option_files:
        return
    missing = sorted(record.spec.option_files.keys() - hashed.files.keys())
    raise UsageError(
        "the build read a file that an option names"
        if missing
        else "a file that an option names is not the one the build read",
        next_step=f"add -x {(missing or sorted(hashed.files))[0]}=PATH",
    )


def _present(folder: Path, record: BuildRecord) -> list[str]:
    return [name for name in list_files(folder) if name in record.files]


def _source(
    record: BuildRecord, model: str | None, hub_cache: Path | None, report: ProgressCallback
) -> LocalSource:
    source = record.spec.source
    if source.kind == "hub":
        return find(source.name, source.revision, hub_cache, report)
    if model is None:
        raise UsageError(
            f"{source.name} was built from a local {source.kind}",
            why="the record keeps its hashes, not its place",
            next_step="add -m with where it lies now",
        )
    found = find(model, None, hub_cache, report)
    if sorted(found.source.files.values()) != sorted(source.files.values()):
        differing = sorted(
            name
            for name in source.files.keys() | found.source.files.keys()
            if source.files.get(name) != found.source.files.get(name)
        )
        raise UsageError(
            f"{Path(model).name} is not what {source.name} was built from",
            why=f"{differing[0]} differs",
            next_step="name the same source with -m",
        )
    return found


def _compare(
    folder: Path, recorded: dict[str, FileRecord], seen: dict[str, FileRecord], where: str
) -> None:
    differing = [
        name
        for name in sorted(recorded.keys() | seen.keys())
        if recorded.get(name) != seen.get(name)
    ]
    if differing:
        raise VerificationError(
            f"{folder.name} and {where} differ in {', '.join(differing)}",
            why="; ".join(
                f"{name}: {_short(recorded.get(name))} against {_short(seen.get(name))}"
                for name in differing
            ),
            next_step="do not ship it: it was changed, or it was not made by this toolchain",
        )


def _short(record: FileRecord | None) -> str:
    return f"{record.sha256[:12]} ({record.size} bytes)" if record else "missing"
