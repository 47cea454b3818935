"""Converts a GGUF file to a Hugging Face folder, once per file and toolchain, in the cache."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.files import (
    list_files,
    matches,
    publish_cached,
    record_files,
    scratch,
)
from edgekit.builder.source.find import LocalSource
from edgekit.builder.source.ggufparts import GgufModel, merge_parts, read_model
from edgekit.builder.support.gguf.config import config_of
from edgekit.builder.support.gguf.keys import INSTEAD
from edgekit.builder.support.gguf.sampling import sampling_of
from edgekit.builder.support.gguf.tokens import tokenizer_of
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, ToolchainSource
from edgekit.builder.tools.process import INSIDE, event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.buildinfo import FileRecord
from edgekit.data import cache_root
from edgekit.errors import UsageError

DEQUANTISE_DEADLINE_SECONDS = 4 * 3600
_RECORD = "edgekit-files.json"
_REFUSED = "refused"  # by `inside/dequantise.py`


def header_config(found: LocalSource) -> dict[str, Any]:
    """config.json of a GGUF source, made of its header.

    Raises:
        UsageError: the header has a key that cannot be carried over, or the file is damaged.
    """
    header = read_model(found.path).header
    tokenizer_of(header)  # refuses, too
    return config_of(header)


def reading_of(found: LocalSource) -> dict[str, Any]:
    """What edgekit reads out of a GGUF header: config, tokenizer and sampling.

    Raises:
        UsageError: the header has a key that cannot be carried over, or the file is damaged.
    """
    return _reading(read_model(found.path))


def _reading(model: GgufModel) -> dict[str, Any]:
    return {
        "config": config_of(model.header),
        "tokenizer": tokenizer_of(model.header),
        "sampling": sampling_of(model.header),
    }


def dequantised(found: LocalSource, toolchain: ToolchainSource, report: ProgressCallback) -> Path:
    """The folder with a GGUF file's weights in float32, its tokenizer and its config.

    Raises:
        UsageError: the header has a key that cannot be carried over, or the file is damaged.
        EdgekitError: transformers cannot read the file, or not all of it.
    """
    model = read_model(found.path)
    told = msgspec.json.encode(_reading(model), order="sorted")
    final = cache_root() / "dequantised" / _key(found, toolchain, told)
    if final.is_dir():
        report(Progress("dequantise", "checking the cached copy"))
        if _is_whole(final):
            return final
        shutil.rmtree(final)
    runner = toolchain.ready(report)
    with scratch(final.parent) as work:
        shown = _show(model, work, report)
        (work / "told.json").write_bytes(told)
        out = work / "out"
        finished = runner.run(
            Job(
                script="dequantise.py",
                arguments=("--gguf", shown, "--told", work / "told.json", "--out", out),
                work=work,
                reads=tuple(path.resolve() for path, _ in model.parts),
                shows=Progress("dequantise", f"reading {found.path.name}"),
                deadline_seconds=DEQUANTISE_DEADLINE_SECONDS,
            ),
            report,
        )
        if finished.code != 0:
            what = f"{found.path.name} cannot be read"
            error = event(finished, "error")
            if error and error["kind"] == _REFUSED:
                raise UsageError(what, str(error["message"]), INSTEAD)
            raise failure(finished, what, INSTEAD)
        record = msgspec.json.encode(record_files(out, list_files(out)), order="sorted")
        (out / _RECORD).write_bytes(record)
        publish_cached(out, final)
    return final


def _key(found: LocalSource, toolchain: ToolchainSource, told: bytes) -> str:
    """The name of the cached result, which depends on the files, transformers and our reading."""
    files = found.source.files
    digest = (
        next(iter(files.values()))
        if len(files) == 1
        else hashlib.sha256(msgspec.json.encode(files, order="sorted")).hexdigest()
    )
    reading = hashlib.sha256(told)
    for script in (INSIDE / "dequantise.py", *sorted((INSIDE / "unpack").glob("*.py"))):
        reading.update(script.read_bytes())
    return f"{digest}-{toolchain.digest[:16]}-{reading.hexdigest()[:16]}"


def _show(model: GgufModel, work: Path, report: ProgressCallback) -> Path:
    """A file under a fixed name, alone in its folder.

    The result must not depend on the place or the name of the file.
    """
    (work / "in").mkdir()
    shown = work / "in" / "model.gguf"
    if len(model.parts) == 1:
        shown.symlink_to(model.parts[0][0].resolve())
    else:
        report(Progress("dequantise", f"joining {len(model.parts)} parts"))
        merge_parts(model, shown)
    return shown


def _is_whole(folder: Path) -> bool:
    try:
        data = (folder / _RECORD).read_bytes()
        return matches(folder, msgspec.json.decode(data, type=dict[str, FileRecord]))
    except (OSError, msgspec.MsgspecError):
        return False
