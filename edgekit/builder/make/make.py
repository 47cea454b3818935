"""From a checkpoint to a finished, linted model in a working folder; nothing is published here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.builder.files import list_files, record_files
from edgekit.builder.lint.check import asked_of, check_folder, refuse_unsound
from edgekit.builder.make.convert import Conversion, convert
from edgekit.builder.make.finish import finish
from edgekit.builder.make.told import as_told
from edgekit.builder.spec import BuildSpec
from edgekit.builder.tools.job import Toolchain
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import FileRecord


class Ingredients(msgspec.Struct, frozen=True):
    """What a model is made from.

    Attributes:
        spec: what decides the bytes.
        folder: the Hugging Face folder.
        options: the builder's, with paths as they are on this machine.
        route: the route through the builder: `auto`, `low-memory` or `stock`.
        reads: files and folders that options name.
    """

    spec: BuildSpec
    folder: Path
    options: dict[str, str]
    route: str = "auto"
    reads: tuple[Path, ...] = ()


class FinishedModel(msgspec.Struct, frozen=True):
    """A finished model.

    Attributes:
        folder: where it lies.
        files: relative path -> sha256 and size.
        converted: how the builder went about it.
        warnings: what the builder was told otherwise, and what the lint saw and let pass.
    """

    folder: Path
    files: dict[str, FileRecord]
    converted: Conversion
    warnings: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files.values())


def make(
    toolchain: Toolchain, made_of: Ingredients, work: Path, report: ProgressCallback
) -> FinishedModel:
    """Convert, finish and lint.

    Args:
        work: an empty folder; the model comes to lie below it.

    Raises:
        VerificationError: what came out is not what was asked for.
        EdgekitError: the builder failed.
    """
    told, notes = as_told(made_of.folder, work)
    converted = convert(
        toolchain, told, made_of.spec, made_of.options, work, report,
        route=made_of.route, reads=made_of.reads,
    )  # fmt: skip
    finish(converted.folder, made_of.spec.context)
    asked = asked_of(made_of.spec, made_of.folder)
    warnings = refuse_unsound(check_folder(converted.folder, asked, toolchain, work, report))
    report(Progress("publish", "hashing the files"))
    files = record_files(converted.folder, list_files(converted.folder))
    return FinishedModel(converted.folder, files, converted, notes + warnings)
