"""Runs the model builder, and explains its common failures."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from edgekit.builder.files import keep_log
from edgekit.builder.source.configfile import read_config
from edgekit.builder.spec import BuildSpec
from edgekit.builder.support.leftovers import explained
from edgekit.builder.tools.failure import failure
from edgekit.builder.tools.job import Job, Toolchain
from edgekit.builder.tools.process import ProcessResult, event
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.errors import EdgekitError, UsageError

DEADLINE_SECONDS = 12 * 3600
_FAILED_LOG = "last-failed-build.log"

# Common failures: pattern of the exception's text, reason, next step.
_KNOWN = (
    (
        r"trust_remote_code|requires you to execute",
        "the model's repository wants its own code run",
        "read that code, then add --trust-remote-code; or take a model that transformers knows",
    ),
    (
        r"cannot reshape array",
        "k_quant and rtn cannot pack a matrix with an odd number of blocks, such as an adapter's",
        "use --recipe plain or plain-mixed, their method can",
    ),
    (
        r"NotImplementedError: The .*model is not currently supported",
        "the model builder does not know the architecture",
        "`edgekit build --plan` says what can be built instead",
    ),
    (
        r"NotImplementedError: The .* is not currently supported",
        "config.json has a setting that the model builder does not know",
        "take another model of that size",
    ),
)


class Conversion(msgspec.Struct, frozen=True):
    """The result of the model builder's run.

    Attributes:
        folder: the model.
        route: `low-memory` or `stock`.
        note: why the stock route was taken instead of the low-memory one; else empty.
        finished: exit code, time and memory of the process.
    """

    folder: Path
    route: str
    note: str
    finished: ProcessResult


def convert(
    toolchain: Toolchain,
    source: Path,
    spec: BuildSpec,
    options: dict[str, str],
    work: Path,
    report: ProgressCallback,
    *,
    route: str = "auto",
    reads: tuple[Path, ...] = (),
) -> Conversion:
    """Run the locked model builder into `work/model`.

    Args:
        source: a Hugging Face folder.
        options: the builder's options, with paths of this machine.
        work: a temporary folder, removed by the caller.
        route: `auto`, `low-memory` or `stock`.
        reads: files and folders that options name.

    Raises:
        UsageError: the checkpoint or the adapter lacks tensors, or has too many.
        EdgekitError: the builder failed; its log is kept in the cache.
    """
    out = work / "model"
    (work / "cache").mkdir(exist_ok=True)
    pairs = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    leftovers = [word for each in explained(read_config(source)) for word in ("--leftover", each)]
    job = Job(
        script="convert.py",
        arguments=(
            "-i", source, "-o", out, "-p", spec.precision, "-e", spec.provider,
            "-c", work / "cache", "--path", route, *pairs, *leftovers,
        ),
        work=work,
        reads=(source, *reads),
        shows=Progress("build", "starting the model builder"),
        deadline_seconds=DEADLINE_SECONDS,
    )  # fmt: skip
    finished = toolchain.run(job, report)
    if finished.code != 0:
        raise _failure(finished, keep_log(job.log, _FAILED_LOG))
    graph = options.get("filename", "model.onnx")
    for name in ("genai_config.json", graph):
        if not (out / name).is_file():
            raise EdgekitError("the model builder ended without a model", why=f"it wrote no {name}")
    result = event(finished, "result") or {}
    return Conversion(out, str(result.get("path", "stock")), str(result.get("note", "")), finished)


def _failure(finished: ProcessResult, kept: Path) -> EdgekitError:
    said = event(finished, "error") or {}
    if said.get("kind") == "incomplete":
        return UsageError(
            str(said.get("message")),
            why="transformers would load the model with random values, or without a part of it",
            next_step="download the model again, or take the config.json that belongs to it",
        )
    # the traceback's last line names the exception's class, which the report's message does not
    for pattern, why, next_step in _KNOWN:
        if re.search(pattern, finished.reason):
            return EdgekitError("the model builder failed", f"{why} ({finished.reason})", next_step)
    return failure(finished, "the model builder failed", f"its whole output is in {kept}")
