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
from edgekit.builder.process import INSIDE, OFFLINE, clean_environment, event, run
from edgekit.builder.progress import Progress, Report
from edgekit.builder.source import Found
from edgekit.builder.spec import FileRecord
from edgekit.builder.toolchain import ToolchainSource
from edgekit.data import cache_root
from edgekit.errors import EdgekitError

DEQUANTISE_DEADLINE_SECONDS = 4 * 3600
_RECORD = "edgekit-files.json"


def dequantised(found: Found, toolchain: ToolchainSource, report: Report) -> Path:
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
    python = toolchain.ready(report).python
    with scratch(final.parent) as work:
        (work / "in").mkdir()
        (work / "in" / "model.gguf").symlink_to(found.path)
        out = work / "out"
        finished = run(
            [
                str(python), "-I", str(INSIDE / "dequantise.py"),
                "--gguf", str(work / "in" / "model.gguf"), "--out", str(out),
            ],
            shows=Progress("dequantise", f"reading {found.path.name}"),
            log=work / "log",
            environment=clean_environment(OFFLINE),
            deadline_seconds=DEQUANTISE_DEADLINE_SECONDS,
            report=report,
            reports_events=True,
            cwd=work,
        )  # fmt: skip
        if finished.code != 0:
            error = event(finished, "error")
            raise EdgekitError(
                f"{found.path.name} cannot be read",
                why=str(error["message"]) if error else finished.reason,
                next_step="use the model's Hugging Face folder or name instead",
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
