"""Memory, disk and time of the model builder, by a model's shape. Pure.

The formulas follow from what the builder keeps; their constants were fitted on models of 0.1, 0.65
and 3.8 B weights on one machine, and are good for about 20 %.
"""

from __future__ import annotations

import msgspec

from edgekit.builder.plan.shape import ModelShape
from edgekit.builder.plan.sizes import long_rope_elements, quantised_bytes
from edgekit.builder.request.asked import Asked

_GIB = 2**30
_IMPORTS_BYTES = 0.24 * _GIB  # torch, transformers, onnxruntime
_SEARCH_BYTES = 0.24 * _GIB  # k_quant in blocks, two threads
_LIBRARIES_BYTES = 0.12 * _GIB  # mapped, as the checkpoint is
_MAPPED_BYTES = 0.3 * _GIB  # what the low-memory path keeps mapped, libraries too
_UNPACKED_TIMES = 1.75  # one model, 0.1 B
_MARGIN, _MARGIN_BYTES = 1.2, int(0.3 * _GIB)
_START_SECONDS, _SECONDS_PER_BILLION = 4.0, 16.0
_COPY_SECONDS_PER_BILLION = 2.0  # nothing is quantised
_LOW_MEMORY_TIMES = 1.12
_SEARCH_TIMES = {"low-memory": 2.8, "stock": 7.4}  # k_quant searches every block's scale
_SEARCH_THREADS = 2


class RouteCost(msgspec.Struct, frozen=True):
    """One route through the builder.

    Attributes:
        route: `low-memory` or `stock`.
        peak_rss_bytes: with the pages of the mapped checkpoint, which the kernel can take back.
        needs_bytes: available memory it is safe to start with.
        disk_bytes: output and what is written on the way.
        cpu_seconds: of the model builder, all threads together.
        seconds: the same on this machine, when nothing else runs.
    """

    route: str
    peak_rss_bytes: int
    needs_bytes: int
    disk_bytes: int
    cpu_seconds: float
    seconds: float


def route_costs(
    shape: ModelShape, asked: Asked, output_bytes: int, cpus: int = _SEARCH_THREADS
) -> tuple[RouteCost, RouteCost]:
    """Memory, disk and time of the low-memory and of the stock path.

    Args:
        output_bytes: of the model folder.
        cpus: usable ones.
    """
    quantised = quantised_bytes(shape, asked)
    searched = quantised > 0 and asked.method == "k_quant"
    largest = 4 * shape.largest
    common = _IMPORTS_BYTES + 8 * 4 * long_rope_elements(shape) + largest
    # the stock builder copies q, k and v of every layer together, holds every weight as float32
    # before it quantises one, and its k_quant another eight copies of the largest
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
        # the low-memory path alone searches in threads
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
    """Available memory it is safe to start reading a GGUF file with; 0 where there is none.

    Args:
        unpacked_bytes: of its weights in float32, which transformers holds almost twice.
    """
    if not unpacked_bytes:
        return 0
    return int(_MARGIN * (_IMPORTS_BYTES + _UNPACKED_TIMES * unpacked_bytes)) + _MARGIN_BYTES
