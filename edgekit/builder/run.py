"""One build, from what was asked for to a folder that is whole or not there at all."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import msgspec

from edgekit.builder.files import hash_file, list_files, record_files
from edgekit.builder.gguf import dequantised
from edgekit.builder.options import PATH_KEYS, parse_options
from edgekit.builder.process import OFFLINE, Finished, clean_environment
from edgekit.builder.process import run as run_program
from edgekit.builder.progress import Progress, Report
from edgekit.builder.publish import check_out, publish, up_to_date, workplace
from edgekit.builder.source import find
from edgekit.builder.spec import (
    RECORD_NAME,
    BuildRecord,
    BuildSpec,
    FileRecord,
    Precision,
    Provider,
    check_target,
)
from edgekit.builder.toolchain import HostToolchain, Toolchain, ToolchainSource
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

BUILD_DEADLINE_SECONDS = 12 * 3600
_NEEDED = ("genai_config.json", "model.onnx")
_FAILED_LOG = "last-failed-build.log"


class BuildRequest(msgspec.Struct, frozen=True):
    """What was asked for, as it stands on the command line.

    Attributes:
        model: a Hugging Face folder, a GGUF file or `ORG/NAME`.
        out: the folder to make.
        precision, provider: the builder's `-p` and `-e`.
        options: `KEY=VALUE` pairs of the builder's `--extra_options`.
        revision: of a Hugging Face name; None is its main branch.
        hub_cache: folder for downloads; None is Hugging Face's own cache.
    """

    model: str
    out: Path
    precision: str = "int4"
    provider: str = "cpu"
    options: tuple[str, ...] = ()
    revision: str | None = None
    hub_cache: Path | None = None


class BuildResult(msgspec.Struct, frozen=True):
    """What came out.

    Attributes:
        files: relative path -> sha256 and size, without `build.json`.
        total_bytes: their sum.
        seconds: wall-clock time of it all, from the request to the folder.
        builder_seconds: the model builder's part of it; 0 when `up_to_date`.
        peak_rss_bytes: the most memory the model builder held; 0 when `up_to_date`.
        up_to_date: the folder was this very build already, nothing ran.
        notes: what the user should know about the choice, one line each.
    """

    out: Path
    build_id: str
    files: dict[str, FileRecord]
    total_bytes: int
    seconds: float
    builder_seconds: float
    peak_rss_bytes: int
    up_to_date: bool
    notes: tuple[str, ...] = ()


def build(
    request: BuildRequest, report: Report, toolchain: ToolchainSource | None = None
) -> BuildResult:
    """Build a model folder, or find that it is there already.

    Args:
        report: told about every step, at least once a second.
        toolchain: the host's, unless a test brings another.

    Raises:
        UsageError: the request cannot be met as it stands; nothing was done.
        UnreachableError: the model is on the hub and the hub does not answer.
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


def _build(request: BuildRequest, report: Report, toolchain: ToolchainSource) -> BuildResult:
    started = time.monotonic()
    notes = check_target(request.precision, request.provider)
    options = parse_options(request.options)
    out = request.out.expanduser().resolve()
    check_out(out)
    option_files = _hash_option_files(options)
    found = find(request.model, request.revision, request.hub_cache, toolchain, report)
    spec = BuildSpec(
        source=found.source,
        precision=msgspec.convert(request.precision, Precision),
        provider=msgspec.convert(request.provider, Provider),
        # a path says nothing about the bytes, and something about the machine
        options={k: v for k, v in options.items() if k not in option_files},
        option_files=option_files,
        toolchain=toolchain.digest,
    )
    build_id = spec.build_id()
    report(Progress("source", "comparing with what is there"))
    if record := up_to_date(out, build_id):
        return _result(out, record, None, started, notes)
    folder = found.path
    if found.source.kind == "gguf":
        folder = dequantised(found, toolchain, report)
    installed = toolchain.ready(report)
    with workplace(out) as work:
        finished = _run_builder(installed, folder, spec, options, work, report)
        model = work / "model"
        report(Progress("publish", "hashing the files"))
        drop_local_files_only(model / "tokenizer_config.json")
        record = BuildRecord(
            build_id=build_id,
            spec=spec,
            files=record_files(model, list_files(model)),
            tools=toolchain.tools,
            seconds=round(finished.seconds, 1),
        )
        (model / RECORD_NAME).write_bytes(_pretty(record))
        report(Progress("publish", "flushing them to the disk"))
        publish(model, out)
    return _result(out, record, finished, started, notes)


def _run_builder(
    toolchain: Toolchain,
    folder: Path,
    spec: BuildSpec,
    options: dict[str, str],
    work: Path,
    report: Report,
) -> Finished:
    log = work / "log"
    # without hf_token=false it insists on a login, although it reads local files only
    extra = ["hf_token=false", *(f"{key}={value}" for key, value in options.items())]
    finished = run_program(
        [
            str(toolchain.python), *toolchain.builder,
            "-i", str(folder), "-o", str(work / "model"), "-p", spec.precision,
            "-e", spec.provider, "-c", str(work / "cache"), "--extra_options", *extra,
        ],
        shows=Progress("build", "starting the model builder"),
        log=log,
        environment=clean_environment(OFFLINE),
        deadline_seconds=BUILD_DEADLINE_SECONDS,
        report=report,
        cwd=work,
    )  # fmt: skip
    if finished.code == 0:
        missing = [name for name in _NEEDED if not _is_there(work / "model", name, options)]
        if not missing:
            return finished
        raise EdgekitError("the model builder ended without a model", why=f"no {missing[0]}")
    kept = _keep_log(log)
    if finished.code == -signal.SIGKILL:
        raise EdgekitError(
            "the model builder was killed (signal 9)",
            why=finished.reason,
            next_step="close other programs, or build on a machine with more memory",
        )
    raise EdgekitError(
        "the model builder failed",
        why=finished.reason,
        next_step=f"its whole output is in {kept}",
    )


def _is_there(model: Path, name: str, options: dict[str, str]) -> bool:
    return (model / (options.get("filename", name) if name == "model.onnx" else name)).is_file()


def _keep_log(log: Path) -> Path:
    """Copy a failed build's log into the cache: the folder it lies in is about to go."""
    kept = cache_root() / "logs" / _FAILED_LOG
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, kept)
    return kept


def drop_local_files_only(path: Path) -> None:
    """Remove `local_files_only` from a tokenizer_config.json.

    transformers writes down how *this* run was allowed to look for files; it is no part of the
    model. The rest stays as transformers writes it: indented by two, in its own order.
    """
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.pop("local_files_only", None) is None:
        return
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _hash_option_files(options: dict[str, str]) -> dict[str, dict[str, str]]:
    found = {}
    for key in sorted(PATH_KEYS & options.keys()):
        path = Path(options[key]).expanduser()
        if not path.exists():
            raise UsageError(f"the extra option {key} names {path}, which does not exist")
        options[key] = str(path.resolve())  # the builder runs in another folder
        names = list_files(path) if path.is_dir() else [path.name]
        base = path if path.is_dir() else path.parent
        found[key] = {name: hash_file(base / name) for name in names}
    return found


def _pretty(record: BuildRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record, order="sorted"), indent=2) + b"\n"


def _result(
    out: Path,
    record: BuildRecord,
    finished: Finished | None,
    started: float,
    notes: tuple[str, ...],
) -> BuildResult:
    return BuildResult(
        out=out,
        build_id=record.build_id,
        files=record.files,
        total_bytes=sum(file.size for file in record.files.values()),
        seconds=round(time.monotonic() - started, 1),
        builder_seconds=record.seconds if finished else 0.0,
        peak_rss_bytes=finished.peak_rss_bytes if finished else 0,
        up_to_date=finished is None,
        notes=notes,
    )
