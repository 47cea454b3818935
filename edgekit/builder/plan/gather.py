"""Gathers what a plan needs: headers, and what this machine has. Downloads no weights.

A folder's weight files and a GGUF file are opened for their headers; of a model on the hub
`inside/headers.py` asks for config.json and, by HTTP Range, for the headers.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.builder.files import scratch
from edgekit.builder.gate.verdict import find_thresholds
from edgekit.builder.plan.ggufheader import read_header
from edgekit.builder.plan.plan import Machine, Plan, Source, Wanted, make_plan
from edgekit.builder.plan.shape import ModelShape, shape_of
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.request.asked import asked_for
from edgekit.builder.request.options import check_options
from edgekit.builder.request.request import BuildRequest, recipes_for, refuse_unloadable, wish_of
from edgekit.builder.source.checkpoint import check_weights
from edgekit.builder.source.find import HUB_NAME, hub_refusal, online_environment
from edgekit.builder.support.architectures import Verdict, judge
from edgekit.builder.support.limits import Refusal
from edgekit.builder.support.modelconfig import check_config
from edgekit.builder.tools.process import INSIDE, event, run
from edgekit.builder.tools.progress import Progress, Report
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

_T = TypeVar("_T")

ASK_DEADLINE_SECONDS = 600
_SIDE_FILES = re.compile(r"^(tokenizer.*|special_tokens_map|vocab|merges|chat_template)\.")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Facts(msgspec.Struct, frozen=True):
    """A model as its headers tell it.

    Attributes:
        config: config.json; what a GGUF file's header says in its place.
        chooses: the config that recipes are chosen by, as a build does it: a GGUF file has none.
        tensors: empty where the weights have no headers.
        download_cache: folder that a download would go to.
    """

    source: Source
    config: dict[str, Any]
    chooses: dict[str, Any]
    tensors: dict[str, Tensor]
    download_cache: Path


def plan_build(request: BuildRequest, report: Report) -> Plan:
    """What the build of a request would take and make.

    Raises:
        UsageError: the request is wrong, or nothing usable goes by the model's name.
        UnreachableError: the model is on the hub and the hub does not answer.
        EdgekitError: the hub refuses.
    """
    wish = wish_of(request)
    if request.gate:
        find_thresholds(request.gate, request.thresholds)  # a build would refuse them, too
    facts = gather(request, report)
    check_config(facts.config)
    verdict = judge(
        facts.config, wish.precision, request.provider, trust_remote_code=request.trust_remote_code
    )
    verdict = _without_headers(facts, verdict)
    if verdict.architecture is None:
        return make_plan(
            facts.source, verdict, None, (), _machine(request, facts), notes=wish.notes
        )
    refuse_unloadable(wish, facts.config)
    recipes, why = recipes_for(request, wish, facts.chooses)
    wanted = []
    for each in recipes:
        options = check_options({**(each.options if each else {}), **wish.plain})
        asked = asked_for(
            each.precision if each else wish.precision,
            request.provider,
            wish.given | options,
            facts.config,
            context=request.context,
        )
        wanted.append(Wanted(each.name if each else "", asked))
    return make_plan(
        facts.source,
        verdict,
        _shape(facts, verdict, wanted[0].asked.layers),
        wanted,
        _machine(request, facts),
        path=request.path,
        notes=wish.notes + why,
    )


def gather(request: BuildRequest, report: Report) -> Facts:
    """Config and headers of the model that `-m` names."""
    path = Path(request.model).expanduser()
    if path.exists():
        if request.revision:
            raise UsageError("--revision goes with a Hugging Face name, not with a local path")
        report(Progress("source", f"reading the headers of {path.name}"))
        return _folder(path.resolve()) if path.is_dir() else _gguf(path.resolve())
    if request.model.endswith(".gguf") or not HUB_NAME.fullmatch(request.model):
        raise UsageError(
            f"there is no {request.model}",
            next_step="give a Hugging Face folder, a .gguf file, or a name like ORG/NAME",
        )
    return _hub(request, report)


def _shape(facts: Facts, verdict: Verdict, layers: int | None) -> ModelShape | None:
    try:
        return shape_of(facts.config, facts.tensors, layers=layers)
    except UsageError:
        if verdict.refusal is None:
            raise
        return None  # it is refused for a better reason


def _without_headers(facts: Facts, verdict: Verdict) -> Verdict:
    if facts.tensors or verdict.refusal:
        return verdict
    refusal = Refusal(
        f"{facts.source.name} has no weights that a build reads",
        "it has no *.safetensors file",
        "older formats such as pytorch_model.bin have to be converted first",
    )
    return msgspec.structs.replace(verdict, refusal=refusal)


def _folder(folder: Path) -> Facts:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UsageError(
            f"{folder.name} is not a Hugging Face model folder",
            why="it has no config.json",
            next_step="give the folder that holds config.json and the *.safetensors files",
        )
    config = _decoded(config_file, dict[str, Any])
    check_weights(folder)
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.name.startswith("consolidated"):  # Mistral's second copy of the weights
            tensors |= _safetensors(path)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    source = Source(folder.name, side_bytes=_side_bytes(sizes))
    return Facts(source, config, config, tensors, cache_root())


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `check_weights` found whole."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
    return {
        name: msgspec.json.decode(entry, type=Tensor)
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def _gguf(path: Path) -> Facts:
    with path.open("rb") as file:
        config, tensors = read_header(file, path.name)
    unpacked = sum(tensor.size for tensor in tensors.values())
    return Facts(Source(path.name, unpacked_bytes=unpacked), config, {}, tensors, cache_root())


class _Told(msgspec.Struct, frozen=True):
    """What `inside/headers.py` writes."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, int]


def _hub(request: BuildRequest, report: Report) -> Facts:
    name = request.model
    argv = [sys.executable, "-E", "-s", str(INSIDE / "headers.py"), "--repo", name]
    argv += ["--revision", request.revision] if request.revision else []
    argv += ["--cache", str(request.hub_cache.resolve())] if request.hub_cache else []
    with scratch(cache_root() / "logs") as work:
        out = work / "headers.json"
        finished = run(
            [*argv, "--out", str(out)],
            shows=Progress("source", f"asking Hugging Face about {name}"),
            log=work / "log",
            environment=online_environment(),
            deadline_seconds=ASK_DEADLINE_SECONDS,
            report=report,
            events=work / "events",
        )
        result = event(finished, "result")
        if finished.code != 0 or result is None:
            raise _no_config(
                request, hub_refusal(name, request.revision, finished), finished.events
            )
        told = _decoded(out, _Told)
    source = Source(
        name, download_bytes=sum(told.files.values()), side_bytes=_side_bytes(told.files)
    )
    return Facts(source, told.config, told.config, told.tensors, Path(result["cache"]))


def _no_config(
    request: BuildRequest, usual: EdgekitError, events: tuple[dict[str, Any], ...]
) -> EdgekitError:
    if any(each.get("kind") == "no config" for each in events):
        return UsageError(
            f"{request.model} is not a model that can be built",
            why="it has no config.json",
            next_step="give the repository of the original model, not of a converted one",
        )
    return usual


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path.name} cannot be read", why=str(error)) from error


def _side_bytes(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if _SIDE_FILES.match(name))


def _machine(request: BuildRequest, facts: Facts) -> Machine:
    out, cache = _existing(request.out), _existing(facts.download_cache)
    return Machine(
        memory_bytes=_available_memory(),
        disk_bytes=shutil.disk_usage(out).free,
        cache_bytes=shutil.disk_usage(cache).free,
        same_disk=out.stat().st_dev == cache.stat().st_dev,
        cpus=len(os.sched_getaffinity(0)),
    )


def _existing(path: Path) -> Path:
    """The path itself, or the closest folder above it that is there."""
    path = path.expanduser().absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _available_memory() -> int:
    """MemAvailable of proc(5), or what is left of this cgroup's limit where that is less."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    available = (
        int(match[1]) * 1024
        if match
        else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup v2, or `max`
        return available
    return min(available, limit - used)
