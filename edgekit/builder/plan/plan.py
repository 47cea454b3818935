"""Predicts memory, disk and time of a build, and the model's size, from headers alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgekit.builder.plan.cost import (
    GateCost,
    RouteCost,
    gate_cost,
    route_costs,
    unpacking_needs_bytes,
)
from edgekit.builder.plan.pictures import (
    PictureCost,
    TextCost,
    VisionShape,
    gate_seconds,
    picture_costs,
)
from edgekit.builder.plan.profiles import PROFILES, DeviceFit, DeviceProfile, on_device
from edgekit.builder.plan.shape import ModelShape
from edgekit.builder.plan.sizes import (
    data_bytes,
    graph_bytes,
    inexact,
    kv_bytes_per_token,
    read_bytes_per_token,
    uneven_matrix,
)
from edgekit.builder.request.asked import Asked
from edgekit.builder.support.architectures import ArchitectureSupport
from edgekit.builder.support.limits import Refusal


class Machine(msgspec.Struct, frozen=True):
    """The resources of the machine that would run the build.

    Attributes:
        memory_bytes: memory available without swapping.
        disk_bytes: free space for the output and temporary files.
        cache_bytes: free space for downloads and for an unpacked GGUF file.
        same_disk: output and cache lie on one file system.
        cpus: number of usable CPUs.
    """

    memory_bytes: int
    disk_bytes: int
    cache_bytes: int
    same_disk: bool
    cpus: int


class SourceSizes(msgspec.Struct, frozen=True):
    """Sizes of the files that a source needs before the builder starts.

    Attributes:
        name: name of the model.
        download_bytes: upper bound of the download.
        unpacked_bytes: size of a GGUF file's weights in float32; else 0.
        side_bytes: size of tokenizer and chat template, which are copied into the result.
    """

    name: str
    download_bytes: int = 0
    unpacked_bytes: int = 0
    side_bytes: int = 0


class PlanCandidate(msgspec.Struct, frozen=True):
    """A model to plan: the recipe's name, or empty, and the required properties."""

    recipe: str
    asked: Asked


class PlannedModel(msgspec.Struct, frozen=True):
    """The prediction for one model that the build would make or try.

    Attributes:
        recipe: the recipe's name; empty when the user spelled the options out.
        exact: data_bytes is exact, not an estimate.
        output_bytes: size of the folder.
        data_bytes, graph_bytes: size of `model.onnx.data` and `model.onnx`.
        kv_bytes_per_token: for one sequence; the runtime reserves it for the whole length at once.
        read_bytes_per_token: bytes of weights that decoding one token reads.
        routes: the costs of each route. Its key in JSON is `ways`.
        route: the route that the build would take; empty where none is possible here. Its key in
            JSON is `path`.
        vision_bytes: size of the data of the part that sees and of the embedding; 0 without.
        pictures: what square pictures of 1, 4 and 16 crops take; all of it estimates.
    """

    recipe: str
    precision: str
    exact: bool
    output_bytes: int
    data_bytes: int
    graph_bytes: int
    kv_bytes_per_token: int
    read_bytes_per_token: int
    routes: tuple[RouteCost, ...] = msgspec.field(name="ways")
    route: str = msgspec.field(name="path")
    refusals: tuple[Refusal, ...]
    devices: tuple[DeviceFit, ...]
    vision_bytes: int = 0
    pictures: tuple[PictureCost, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """The result of `edgekit build --plan`.

    Attributes:
        supported: the build can start: there is no refusal, and one of the rows can be made here.
        parameters: number of weights; 0 where the shape is unknown.
        context: longest context of the model, in tokens.
        download_bytes: size of the download.
        gate: time of the gate; None where it does not run.
    """

    model: str
    architecture: str
    supported: bool
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    parameters: int = 0
    context: int = 0
    download_bytes: int = 0
    rows: tuple[PlannedModel, ...] = ()
    gate: GateCost | None = None


def make_plan(
    source: SourceSizes,
    support: ArchitectureSupport,
    shape: ModelShape | None,
    candidates: Sequence[PlanCandidate],
    machine: Machine,
    *,
    route: str = "auto",
    notes: tuple[str, ...] = (),
    profiles: Sequence[DeviceProfile] = PROFILES,
    gated: bool = True,
    vision: VisionShape | None = None,
) -> Plan:
    """The plan of a build.

    Args:
        support: whether the builder supports the architecture.
        shape: None where nothing can be computed for an unsupported model.
        candidates: the models that the build would make, or try in this order.
        route: the requested one: `auto`, `low-memory` or `stock`.
        notes: notes that precede the plan's own.
        gated: the request has the gate.
        vision: the part that sees; None for a model without pictures.
    """
    refusals = (support.refusal,) if support.refusal else ()
    if shape is None:
        return Plan(source.name, "", False, refusals, notes + support.notes)
    window = support.window
    rows = tuple(
        _row(source, shape, each, machine, route, profiles, window, vision) for each in candidates
    )
    return Plan(
        model=source.name,
        architecture=support.architecture.name if support.architecture else shape.architecture,
        supported=not refusals and any(not row.refusals for row in rows),
        refusals=refusals,
        notes=notes + support.notes + _notes(shape, candidates, window),
        parameters=shape.parameters,
        context=(vision.longest if vision else 0) or shape.context,
        download_bytes=source.download_bytes,
        rows=rows,
        gate=_gate(shape, candidates[0].asked, machine.cpus, vision)
        if gated and any(each.asked.provider == "cpu" for each in candidates)
        else None,
    )


def _gate(shape: ModelShape, asked: Asked, cpus: int, vision: VisionShape | None) -> GateCost:
    """The time of the gate, with that of its pictures."""
    cost = gate_cost(shape, cpus)
    if vision is None:
        return cost
    first, again = gate_seconds(vision, _text_cost(shape, asked), cpus)
    return msgspec.structs.replace(
        cost, seconds=cost.seconds + first, again_seconds=cost.again_seconds + again
    )


def _text_cost(shape: ModelShape, asked: Asked) -> TextCost:
    return TextCost(
        model_bytes=data_bytes(shape, asked) + graph_bytes(shape, asked),
        kv=kv_bytes_per_token(shape, asked),
        parameters=shape.parameters - shape.embedding,
        quantised=asked.bits > 0,
    )


def _row(
    source: SourceSizes,
    shape: ModelShape,
    candidate: PlanCandidate,
    machine: Machine,
    route: str,
    profiles: Sequence[DeviceProfile],
    window: int,
    vision: VisionShape | None,
) -> PlannedModel:
    asked = candidate.asked
    data, graph = data_bytes(shape, asked), graph_bytes(shape, asked)
    seeing = vision.size if vision else 0
    longest = (vision.longest if vision else 0) or shape.context
    output = data + graph + source.side_bytes + seeing
    both = route_costs(shape, asked, output, machine.cpus)
    allowed = [each for each in both if route in ("auto", each.route)]
    first = unpacking_needs_bytes(source.unpacked_bytes)
    able = [each for each in allowed if max(each.needs_bytes, first) <= machine.memory_bytes]
    taken = able[0] if able else None
    kv, read = kv_bytes_per_token(shape, asked), read_bytes_per_token(shape, asked)
    return PlannedModel(
        recipe=candidate.recipe,
        precision=asked.precision,
        exact=not inexact(shape, asked),
        output_bytes=output,
        data_bytes=data,
        graph_bytes=graph,
        kv_bytes_per_token=kv,
        read_bytes_per_token=read,
        routes=both,
        route=taken.route if taken else "",
        refusals=(
            *_uneven(shape, asked),
            *_lacking(source, taken or allowed[0], machine, fits=taken is not None),
        ),
        devices=tuple(
            on_device(longest, data + graph + seeing, read, kv, each, window) for each in profiles
        ),
        vision_bytes=seeing,
        pictures=picture_costs(
            vision,
            _text_cost(shape, asked),
            machine.cpus,
            machine.memory_bytes,
            profiles,
        )
        if vision
        else (),
    )


def _uneven(shape: ModelShape, asked: Asked) -> tuple[Refusal, ...]:
    matrix = uneven_matrix(shape, asked)
    if matrix is None:
        return ()
    return (
        Refusal(
            f"{asked.method} cannot quantise {matrix.node}",
            f"its rows of {matrix.columns} are an odd number of blocks of {asked.block_size}, "
            "which the locked onnxruntime fails on",
            "use --recipe plain or plain-mixed, their method can",
        ),
    )


def _lacking(
    source: SourceSizes, cost: RouteCost, machine: Machine, *, fits: bool
) -> tuple[Refusal, ...]:
    """Refusals for memory and disk that this machine lacks."""
    found = []
    needed = max(cost.needs_bytes, unpacking_needs_bytes(source.unpacked_bytes))
    if not fits:
        found.append(
            Refusal(
                "there is not enough memory for the model builder",
                f"it needs {_gib(needed)} available, {_gib(machine.memory_bytes)} are",
                "leave --path out, the low-memory route takes less"
                if cost.route == "stock" and not source.unpacked_bytes
                else "close other programs, or build on a machine with more memory",
            )
        )
    cached = source.download_bytes + source.unpacked_bytes
    places = [
        ("the output", cost.disk_bytes, machine.disk_bytes, "-o"),
        ("the cache", cached, machine.cache_bytes, "-c"),
    ]
    if machine.same_disk and cached:
        places = [
            ("download and output", cost.disk_bytes + cached, machine.disk_bytes, "-o and -c")
        ]
    found += [
        Refusal(
            f"there is not enough disk for {place}",
            f"it takes {_gb(taken)}, {_gb(free)} are free",
            f"free some space, or name a folder on another disk with {flag}",
        )
        for place, taken, free, flag in places
        if taken > free
    ]
    return tuple(found)


def _notes(shape: ModelShape, candidates: Sequence[PlanCandidate], window: int) -> tuple[str, ...]:
    found = []
    reasons = [reason for each in candidates if (reason := inexact(shape, each.asked))]
    if reasons:
        found.append(f"sizes are estimates: {reasons[0]}")
    if shape.sliding:
        found.append("layers with a sliding window keep less of the KV cache than is said here")
    if window:
        found.append(
            f"its sliding window of {window} tokens is reserved in full, however short --context is"
        )
    if shape.experts:
        found.append(f"a token reads {shape.active_experts} of {shape.experts} experts")
    return tuple(found)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
