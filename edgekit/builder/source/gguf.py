"""Converts a GGUF file to a Hugging Face folder, once per file and toolchain, in the cache."""

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
    """The folder with a GGUF file's weights in float32, its tokenizer and its config.

    Raises:
        EdgekitError: transformers cannot read the file.
    """
    digest = next(iter(found.source.files.values()))
    # the result depends on the toolchain's transformers as well as on the file
    final = cache_root() / "dequantised" / f"{digest}-{toolchain.digest[:16]}"
    if final.is_dir():
        report(Progress("dequantise", "checking the cached copy"))
        if _is_whole(final):
            return final
        shutil.rmtree(final)
    runner = toolchain.ready(report)
    with scratch(final.parent) as work:
        # a folder that holds this file alone, under a fixed name: the result must not depend on
        # the place or the name of the file
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
