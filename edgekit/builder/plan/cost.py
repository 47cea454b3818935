"""Memory, disk and time of the model builder, by a model's shape. Pure.

The formulas follow from the data that the builder holds in memory. Their constants were fitted on
models of 0.1, 0.65 and 3.8 B weights on one machine, and are accurate to about 20 %.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from edgekit.builder.gate.effort import SMALL_PARAMETERS, Effort, amounts_of
from edgekit.builder.inside.gate.duration import guess, parts
from edgekit.builder.plan.shape import ModelShape
from edgekit.builder.plan.sizes import long_rope_elements, quantised_bytes
from edgekit.builder.request.asked import Asked

_GIB = 2**30
_IMPORTS_BYTES = 0.24 * _GIB  # torch, transformers, onnxruntime
_SEARCH_BYTES = 0.24 * _GIB  # k_quant's search, slab by slab, two threads
_LIBRARIES_BYTES = 0.12 * _GIB  # mapped, like the checkpoint
_MAPPED_BYTES = 0.3 * _GIB  # mapped pages of the low-memory route, libraries included
_UNPACKED_TIMES = 1.75  # measured with one model of 0.1 B weights
_MARGIN, _MARGIN_BYTES = 1.2, int(0.3 * _GIB)
_START_SECONDS, _SECONDS_PER_BILLION = 4.0, 16.0
_COPY_SECONDS_PER_BILLION = 2.0  # nothing is quantised
_LOW_MEMORY_TIMES = 1.12
_SEARCH_TIMES = {"low-memory": 2.8, "stock": 7.4}  # k_quant searches every block's scale
_SEARCH_THREADS = 2


class GateCost(msgspec.Struct, frozen=True):
    """Time of the gate for a source that it meets for the first time, on this machine when idle.

    Attributes:
        seconds: wall-clock time.
        again_seconds: the same for another model of this source, whose full-precision results are
            in the cache.
        extra_seconds: share of the text that looks far back, and of the key-value cache.
    """

    seconds: float
    again_seconds: float
    extra_seconds: float


class RouteCost(msgspec.Struct, frozen=True):
    """Memory, disk and time of one route through the builder.

    Attributes:
        route: `low-memory` or `stock`. Its key in JSON is `path`.
        peak_rss_bytes: includes pages of the mapped checkpoint, which the kernel can reclaim.
        needs_bytes: available memory that is enough to start safely.
        disk_bytes: output and temporary files.
        cpu_seconds: CPU time of the model builder, all threads together.
        seconds: wall-clock time of the model builder on this machine when it is idle.
    """

    route: str = msgspec.field(name="path")
    peak_rss_bytes: int
    needs_bytes: int
    disk_bytes: int
    cpu_seconds: float
    seconds: float


def route_costs(
    shape: ModelShape, asked: Asked, output_bytes: int, cpus: int = _SEARCH_THREADS
) -> tuple[RouteCost, RouteCost]:
    """The costs of the low-memory and of the stock route.

    Args:
        output_bytes: size of the model folder.
        cpus: number of usable CPUs.
    """
    quantised = quantised_bytes(shape, asked)
    searched = quantised > 0 and asked.method == "k_quant"
    largest = 4 * shape.largest
    common = _IMPORTS_BYTES + 8 * 4 * long_rope_elements(shape) + largest
    # the stock builder joins copies of q, k and v of every layer and holds every weight as float32
    # before it quantises the first; its k_quant needs eight more copies of the largest matrix
    stock = common + shape.stored_bytes * shape.qkv / max(shape.parameters, 1)
    low = stock
    mapped = _LIBRARIES_BYTES + shape.stored_bytes
    low_mapped = mapped
    if quantised:
        low = common + (_SEARCH_BYTES if searched else 0)
        low_mapped = min(mapped, _MAPPED_BYTES)
        stock += 4 * shape.parameters + quantised + (8 * largest if searched else 0)
    per_billion = _SECONDS_PER_BILLION if quantised else _COPY_SECONDS_PER_BILLION
    base = _START_SECONDS + per_billion * shape.parameters / 1e9

    def cost_of(route: str, anonymous: float, mapped: float, spool: int) -> RouteCost:
        times = _SEARCH_TIMES[route] if searched else 1.0
        if route == "low-memory" and not searched:
            times = _LOW_MEMORY_TIMES
        # only the low-memory route searches in threads
        threads = min(cpus, _SEARCH_THREADS) if route == "low-memory" else 1
        return RouteCost(
            route=route,
            peak_rss_bytes=int(anonymous + mapped),
            needs_bytes=int(_MARGIN * anonymous) + _MARGIN_BYTES,
            disk_bytes=output_bytes + spool,
            cpu_seconds=base * times,
            seconds=base + base * (times - 1) / threads,
        )

    return (
        cost_of("low-memory", low, low_mapped, quantised),
        cost_of("stock", stock, mapped, 0),
    )


def unpacking_needs_bytes(unpacked_bytes: int) -> int:
    """Available memory that is enough to read a GGUF file safely; 0 for other sources.

    Args:
        unpacked_bytes: size of its weights in float32, which transformers holds almost twice.
    """
    if not unpacked_bytes:
        return 0
    return int(_MARGIN * (_IMPORTS_BYTES + _UNPACKED_TIMES * unpacked_bytes)) + _MARGIN_BYTES


def gate_cost(shape: ModelShape, cpus: int) -> GateCost:
    """The time that the gate takes.

    Args:
        cpus: number of usable CPUs.
    """
    work = amounts_of(
        Effort(), shape.parameters, shape.vocabulary, shape.hidden, shape.layers, by_layer=True
    )
    speeds = guess(work, cpus, writes=shape.parameters <= SMALL_PARAMETERS)
    each = parts(work, speeds)
    without = parts(replace(work, long=0), speeds)
    return GateCost(each.total, each.total - each.reference, each.total - without.total)
