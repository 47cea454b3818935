"""Makes a finished and linted model in a working folder; the caller publishes it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.files import list_files, record_files
from edgekit.builder.lint.check import asked_of, check_folder, refuse_unsound
from edgekit.builder.make.convert import Conversion, convert
from edgekit.builder.make.finish import finish
from edgekit.builder.make.pictures import join, write_graphs
from edgekit.builder.make.told import as_told
from edgekit.builder.source.configfile import read_config
from edgekit.builder.source.words import processor_files
from edgekit.builder.spec import BuildSpec
from edgekit.builder.support.pictures import family_of
from edgekit.builder.tools.job import Toolchain
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import FileRecord


class Ingredients(msgspec.Struct, frozen=True):
    """The inputs of one model.

    Attributes:
        spec: everything that decides the bytes.
        folder: the Hugging Face folder.
        options: the builder's options, with paths of this machine.
        route: `auto`, `low-memory` or `stock`.
        reads: files and folders that options name.
    """

    spec: BuildSpec
    folder: Path
    options: dict[str, str]
    route: str = "auto"
    reads: tuple[Path, ...] = ()


class FinishedModel(msgspec.Struct, frozen=True):
    """A model that passed the lint.

    Attributes:
        folder: its folder.
        files: relative path -> sha256 and size.
        converted: the result of the model builder's run.
        warnings: changes to config.json for the builder, and warnings of the lint.
        told: the folder that the builder read: the source, or its view with a mended config.json.
    """

    folder: Path
    files: dict[str, FileRecord]
    converted: Conversion
    warnings: tuple[str, ...]
    told: Path

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files.values())


def make(
    toolchain: Toolchain, made_of: Ingredients, work: Path, report: ProgressCallback
) -> FinishedModel:
    """Convert, finish and lint a model.

    Args:
        work: an empty folder; the model is made below it.

    Raises:
        VerificationError: the lint found a difference from the request.
        EdgekitError: the builder failed.
    """
    told, notes = as_told(made_of.folder, work)
    vision = made_of.spec.vision
    # first, because it takes less than the text part and a checkpoint may lack a piece of it
    graphs = write_graphs(toolchain, told, vision, work, report) if vision else None
    converted = convert(
        toolchain, told, made_of.spec, made_of.options, work, report,
        route=made_of.route, reads=made_of.reads,
    )  # fmt: skip
    family = family_of(config := read_config(made_of.folder))
    if graphs and family:
        files = processor_files(made_of.folder)
        join(graphs, converted.folder, family.sections(config, files))
    finish(converted.folder, made_of.spec.context)
    source = told if graphs else made_of.folder
    asked = asked_of(made_of.spec, source)
    findings = check_folder(converted.folder, asked, toolchain, work, report, source)
    warnings = refuse_unsound(findings)
    report(Progress("publish", "hashing the files"))
    files = record_files(converted.folder, list_files(converted.folder))
    return FinishedModel(converted.folder, files, converted, notes + warnings, told)
