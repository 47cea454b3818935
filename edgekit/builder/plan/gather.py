"""Gathers the input of a plan: the model's headers and this machine's resources.

No weights are downloaded. Local weight files and GGUF files are opened for their headers. For a
model on the hub, `inside/headers.py` fetches config.json and, by HTTP Range, the headers.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit import memory
from edgekit.builder.files import scratch
from edgekit.builder.gate.verdict import find_thresholds
from edgekit.builder.plan.ggufnames import unpacked_tensors
from edgekit.builder.plan.pictures import VisionShape, vision_of
from edgekit.builder.plan.plan import Machine, Plan, PlanCandidate, SourceSizes, make_plan
from edgekit.builder.plan.shape import ModelShape, shape_of
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.request.asked import asked_for
from edgekit.builder.request.options import check_options
from edgekit.builder.request.request import (
    BuildRequest,
    check_request,
    recipes_for,
    refuse_unloadable,
)
from edgekit.builder.source.checkpoint import (
    adapter_inside,
    lacking_weights,
    read_checkpoint,
)
from edgekit.builder.source.find import (
    HUB_NAME,
    hub_refusal,
    online_environment,
    refuse_no_model,
)
from edgekit.builder.source.ggufparts import read_model
from edgekit.builder.source.safetensors import StoredTensor
from edgekit.builder.source.soundness import type_note, unsound, wrong_values
from edgekit.builder.source.words import processor_refusal, words_refusal
from edgekit.builder.support.architectures import ArchitectureSupport, support_of
from edgekit.builder.support.families import is_tied
from edgekit.builder.support.gguf.config import chooses, config_of
from edgekit.builder.support.gguf.tokens import tokenizer_of
from edgekit.builder.support.limits import Refusal
from edgekit.builder.support.modelconfig import check_config
from edgekit.builder.support.pictures import (
    pictures_refusal,
    text_config,
    text_tensors,
    vision_precision,
)
from edgekit.builder.support.weights import embedding_and_head
from edgekit.builder.tools.process import INSIDE, event, run
from edgekit.builder.tools.progress import Progress, ProgressCallback
from edgekit.core.reading import UNREADABLE
from edgekit.data import cache_root
from edgekit.errors import EdgekitError, UsageError

_T = TypeVar("_T")

ASK_DEADLINE_SECONDS = 600
_SIDE_FILES = re.compile(r"^(tokenizer.*|special_tokens_map|vocab|merges|chat_template)\.")


class ModelHeaders(msgspec.Struct, frozen=True):
    """The configuration and the tensor headers of a model.

    Attributes:
        config: config.json, or its equivalent from a GGUF header.
        chooses: the config by which a build chooses recipes.
        tensors: name -> type and shape; empty where the weights have no headers.
        download_cache: folder that a download would go to.
        stored: the same tensors with their places; empty where they are not on this machine.
        lacking: why nothing of the weights would be read; None where something is.
        listed: the tensors are those that transformers will find; not so for a GGUF file.
    """

    source: SourceSizes
    config: dict[str, Any]
    chooses: dict[str, Any]
    tensors: dict[str, Tensor]
    download_cache: Path
    stored: dict[str, StoredTensor] = {}
    lacking: Refusal | None = None
    listed: bool = True


def plan_build(request: BuildRequest, report: ProgressCallback) -> Plan:
    """The plan of a request's build.

    Raises:
        UsageError: the request is wrong, or there is no usable model of that name.
        UnreachableError: the model is on the hub and the hub does not answer.
        EdgekitError: the hub refuses.
    """
    checked = check_request(request)
    if request.gate:
        find_thresholds(request.gate, request.thresholds)  # a build would refuse wrong ones, too
    headers = gather(request, report)
    check_config(headers.config)
    support = support_of(
        headers.config,
        checked.precision,
        request.provider,
        trust_remote_code=request.trust_remote_code,
        context=request.context,
        adapter="adapter_path" in checked.given,
    )
    if refusal := pictures_refusal(
        headers.config, request.vision_precision, checked.precision, request.provider,
        request.context, checked.given,
    ):  # fmt: skip
        support = msgspec.structs.replace(support, refusal=support.refusal or refusal)
    folder = Path(request.model).expanduser()
    if not support.refusal and folder.is_dir():  # the files of a model on the hub are not fetched
        other = processor_refusal(folder, headers.config)
        support = msgspec.structs.replace(support, refusal=other)
    vision = None if support.refusal else _vision(request, headers, checked.precision)
    sees = {"exclude_embeds": "true"} if vision else {}
    support = _without_words(request, headers, support)
    headers = _text_part(headers)
    support = _judged(headers, support, checked.given)
    if support.architecture is None:
        return make_plan(
            headers.source, support, None, (), _machine(request, headers), notes=checked.notes
        )
    refuse_unloadable(checked, headers.config)
    recipes, why = recipes_for(request, checked, headers.chooses)
    candidates = []
    for each in recipes:
        options = check_options({**(each.options if each else {}), **checked.plain})
        asked = asked_for(
            each.precision if each else checked.precision,
            request.provider,
            checked.given | options | sees,
            headers.config,
            context=request.context,
        )
        candidates.append(PlanCandidate(each.name if each else "", asked))
    return make_plan(
        headers.source,
        support,
        _shape(headers, support, candidates[0].asked.layers),
        candidates,
        _machine(request, headers),
        route=request.route,
        notes=checked.notes + why,
        gated=request.gate is not None,
        vision=vision,
    )


def _vision(request: BuildRequest, headers: ModelHeaders, precision: str) -> VisionShape | None:
    asked = vision_precision(headers.config, request.vision_precision, precision)
    if asked is None:
        return None
    return vision_of(headers.config, headers.tensors, asked)


def _text_part(headers: ModelHeaders) -> ModelHeaders:
    """The headers with the text part alone, of a model that takes pictures."""
    config = headers.config
    return msgspec.structs.replace(
        headers,
        config=text_config(config),
        tensors=text_tensors(config, headers.tensors),
        stored=text_tensors(config, headers.stored),
    )


def gather(request: BuildRequest, report: ProgressCallback) -> ModelHeaders:
    """The config and the headers of the model that `-m` names."""
    path = Path(request.model).expanduser()
    if path.exists():
        if request.revision:
            raise UsageError(
                "--revision goes with a Hugging Face name, not with a local path",
                next_step="leave --revision out, or name ORG/NAME with -m",
            )
        report(Progress("source", f"reading the headers of {path.name}"))
        return _folder(path.resolve()) if path.is_dir() else _gguf(path.absolute())
    if request.model.endswith(".gguf") or not HUB_NAME.fullmatch(request.model):
        raise UsageError(
            f"there is no {request.model}",
            next_step="give a Hugging Face folder, a .gguf file, or a name like ORG/NAME",
        )
    return _hub(request, report)


def _shape(
    headers: ModelHeaders, support: ArchitectureSupport, layers: int | None
) -> ModelShape | None:
    try:
        return shape_of(headers.config, headers.tensors, layers=layers)
    except UsageError:
        if support.refusal is None:
            raise
        return None  # the refusal already gives a better reason


def _without_words(
    request: BuildRequest, headers: ModelHeaders, support: ArchitectureSupport
) -> ArchitectureSupport:
    folder = Path(request.model).expanduser()
    if support.refusal or not folder.is_dir():  # the files of a model on the hub are not fetched
        return support
    return msgspec.structs.replace(support, refusal=words_refusal(folder, headers.config))


def _judged(
    headers: ModelHeaders, support: ArchitectureSupport, given: dict[str, str]
) -> ArchitectureSupport:
    """The same, with a refusal of the weights or the adapter, and a note on the weights."""
    if support.refusal:
        return support
    refusal = headers.lacking
    if refusal is None:
        shapes = {name: tensor.shape for name, tensor in headers.tensors.items()}
        # GGUF has other tensors than the folder that transformers makes of it
        refusal = unsound(headers.config, shapes, given, listed=headers.listed)
    notes = support.notes + type_note(headers.config, headers.tensors)
    if headers.stored:
        refusal = refusal or wrong_values(headers.config, headers.stored)
    elif is_tied(headers.config) and embedding_and_head(headers.tensors):
        notes += ("its head should be the embedding, but is stored too; the build compares them",)
    return msgspec.structs.replace(support, refusal=refusal, notes=notes)


def _folder(folder: Path) -> ModelHeaders:
    refuse_no_model(folder)
    config = _decoded(folder / "config.json", dict[str, Any])
    stored = read_checkpoint(folder)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return ModelHeaders(
        SourceSizes(folder.name, side_bytes=_side_bytes(sizes)),
        config,
        config,
        {name: Tensor(each.dtype, each.shape) for name, each in (stored or {}).items()},
        cache_root(),
        stored or {},
        lacking_weights(folder.name, sizes) if stored is None else None,
    )


def _gguf(path: Path) -> ModelHeaders:
    model = read_model(path)
    tokenizer_of(model.header)  # refuses what a build would refuse
    config, tensors = config_of(model.header), unpacked_tensors(model.header)
    unpacked = sum(tensor.size for tensor in tensors.values())
    sizes = SourceSizes(model.header.name, unpacked_bytes=unpacked)
    return ModelHeaders(sizes, config, chooses(config), tensors, cache_root(), listed=False)


class _Told(msgspec.Struct, frozen=True):
    """The file that `inside/headers.py` writes."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, int]
    missing: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def _hub(request: BuildRequest, report: ProgressCallback) -> ModelHeaders:
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
    source = SourceSizes(
        name, download_bytes=sum(told.files.values()), side_bytes=_side_bytes(told.files)
    )
    lacking = adapter_inside(name, told.files) or _lacking(name, told)
    return ModelHeaders(
        source, told.config, told.config, told.tensors, Path(result["cache"]), lacking=lacking
    )


def _lacking(name: str, told: _Told) -> Refusal | None:
    if told.missing:
        return Refusal(
            f"{name} is not complete",
            f"{told.missing[0]} is missing, which its index names",
            "take another revision with --revision, or another repository",
        )
    return None if told.tensors else lacking_weights(name, [*told.files, *told.others])


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
    except UNREADABLE as error:
        raise UsageError(
            f"{path.name} cannot be read",
            why=str(error),
            next_step="download it again, or correct it",
        ) from error


def _side_bytes(sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if _SIDE_FILES.match(name))


def _machine(request: BuildRequest, headers: ModelHeaders) -> Machine:
    out, cache = _existing(request.out), _existing(headers.download_cache)
    return Machine(
        memory_bytes=_free_pages() if (free := memory.free_bytes()) is None else free,
        disk_bytes=shutil.disk_usage(out).free,
        cache_bytes=shutil.disk_usage(cache).free,
        same_disk=out.stat().st_dev == cache.stat().st_dev,
        cpus=len(os.sched_getaffinity(0)),
    )


def _existing(path: Path) -> Path:
    """The path itself, or its closest parent folder that exists."""
    path = path.expanduser().absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _free_pages() -> int:
    """What a kernel without MemAvailable says."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
