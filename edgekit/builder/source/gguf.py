"""A GGUF file as a Hugging Face folder, made once per file and toolchain and kept in the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgekit.builder.files import (
    list_files,
    matches,
    publish_cached,
    record_files,
    scratch,
)
from edgekit.builder.source.find import LocalSource
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, ToolchainSource
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import FileRecord
from edgekit.data import cache_root

DEQUANTISE_DEADLINE_SECONDS = 4 * 3600
_RECORD = "edgekit-files.json"


def dequantised(found: LocalSource, toolchain: ToolchainSource, report: ProgressCallback) -> Path:
    """The folder with the weights of a GGUF file in float32, its tokenizer and its config.

    Raises:
        EdgekitError: transformers cannot read the file.
    """
    digest = next(iter(found.source.files.values()))
    # the toolchain's transformers decides the result as much as the file does
    final = cache_root() / "dequantised" / f"{digest}-{toolchain.digest[:16]}"
    if final.is_dir():
        report(Progress("dequantise", "checking the cached copy"))
        if _is_whole(final):
            return final
        shutil.rmtree(final)
    runner = toolchain.ready(report)
    with scratch(final.parent) as work:
        # a folder with this one file in it, under a name that says nothing: the result must not
        # depend on where the file lies
        (work / "in").mkdir()
        shown = work / "in" / "model.gguf"
        shown.symlink_to(found.path)
        out = work / "out"
        finished = runner.run(
            Job(
                script="dequantise.py",
                arguments=("--gguf", shown, "--out", out),
                work=work,
                reads=(found.path,),
                shows=Progress("dequantise", f"reading {found.path.name}"),
                deadline_seconds=DEQUANTISE_DEADLINE_SECONDS,
            ),
            report,
        )
        if finished.code != 0:
            raise failure(
                finished,
                f"{found.path.name} cannot be read",
                "use the model's Hugging Face folder or name instead",
            )
        record = msgspec.json.encode(record_files(out, list_files(out)), order="sorted")
        (out / _RECORD).write_bytes(record)
        publish_cached(out, final)
    return final


def _is_whole(folder: Path) -> bool:
    try:
        data = (folder / _RECORD).read_bytes()
        return matches(folder, msgspec.json.decode(data, type=dict[str, FileRecord]))
    except (OSError, msgspec.MsgspecError):
        return False
