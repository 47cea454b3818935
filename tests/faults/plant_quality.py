"""Plants damage that stays near the gate's tolerance, run with the toolchain's interpreter:

    python plant_quality.py SOURCE OUT NAME...

Each NAME of `DAMAGE` becomes a copy of the model folder SOURCE below OUT. Sizes, offsets and shapes
stay as they were. `other_kernels` is healthy: the same weights, computed in float32.
"""

# mypy: disable-error-code="import-not-found"
# (onnx is the toolchain's)

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[Any], None]


def _layer(number: int) -> str:
    return f"/model/layers.{number}/"


def scaled(model: Any, begins: str, factor: float) -> None:
    """All weights of these matrices times a factor."""
    for _, scales, _ in model.matrices(begins):
        scales[:] *= factor


def block_zeroed(model: Any, begins: str, block: int) -> None:
    """One block of 32 weights in every row is nothing."""
    for _, scales, _ in model.matrices(begins):
        scales[:, block] = 0


def zero_points_moved(model: Any, begins: str) -> None:
    """Every zero point is one step higher, where it is not the highest."""
    for _, _, points in model.matrices(begins):
        low, high = points & 15, points >> 4
        points[:] = np.minimum(low + 1, 15) | (np.minimum(high + 1, 15) << 4)


def shaken(model: Any, begins: str) -> None:
    """Each weight is one step higher, lower or as it was, by chance."""
    chance = np.random.default_rng(17)
    for values, _, _ in model.matrices(begins):
        parts = [values & 15, values >> 4]
        moved = [
            np.clip(part.astype(np.int16) + chance.integers(-1, 2, part.shape), 0, 15)
            for part in parts
        ]
        values[:] = (moved[0] | (moved[1] << 4)).astype(np.uint8)


def norm_scaled(model: Any, name: str, factor: float) -> None:
    """One norm times a factor: the gate does not compare norms by their values."""
    model.array(name)[:] *= factor


def rows_shifted(model: Any, begins: str, first: int, count: int) -> None:
    """Some rows are those of their neighbours."""
    for parts in model.matrices(begins):
        for part in parts:
            part[first : first + count] = np.roll(part[first : first + count], 1, axis=0)


def heads_swapped(model: Any, begins: str) -> None:
    """The first two query heads (64 rows each) change places."""
    for parts in model.matrices(begins):
        for part in parts:
            part[:128] = np.roll(part[:128], 64, axis=0)


DAMAGE: dict[str, Change] = {
    "layer-5-scaled": partial(scaled, begins=_layer(5), factor=1.3),
    "layer-15-scaled": partial(scaled, begins=_layer(15), factor=1.3),
    "layer-25-scaled": partial(scaled, begins=_layer(25), factor=1.3),
    "layer-15-shrunk": partial(scaled, begins=_layer(15), factor=0.7),
    "down-2-scaled": partial(scaled, begins=_layer(2) + "mlp/down_proj", factor=1.4),
    "qkv-12-scaled": partial(scaled, begins=_layer(12) + "attn/qkv_proj", factor=1.4),
    "gate-20-shrunk": partial(scaled, begins=_layer(20) + "mlp/gate_proj", factor=0.65),
    "qkv-10-block": partial(block_zeroed, begins=_layer(10) + "attn/qkv_proj", block=3),
    "down-4-block": partial(block_zeroed, begins=_layer(4) + "mlp/down_proj", block=7),
    "gate-16-block": partial(block_zeroed, begins=_layer(16) + "mlp/gate_proj", block=11),
    "head-block": partial(block_zeroed, begins="/lm_head/", block=5),
    "qkv-14-points": partial(zero_points_moved, begins=_layer(14) + "attn/qkv_proj"),
    "down-1-points": partial(zero_points_moved, begins=_layer(1) + "mlp/down_proj"),
    "down-28-points": partial(zero_points_moved, begins=_layer(28) + "mlp/down_proj"),
    "layer-8-shaken": partial(shaken, begins=_layer(8)),
    "layer-22-shaken": partial(shaken, begins=_layer(22)),
    "norm-12": partial(norm_scaled, name="model.layers.12.input_layernorm.weight", factor=1.5),
    "norm-18": partial(
        norm_scaled, name="model.layers.18.post_attention_layernorm.weight", factor=0.6
    ),
    "norm-0": partial(norm_scaled, name="model.layers.0.input_layernorm.weight", factor=1.3),
    "layer-28-scaled": partial(scaled, begins=_layer(28), factor=1.35),
    "down-29-scaled": partial(scaled, begins=_layer(29) + "mlp/down_proj", factor=1.4),
    "layer-0-shaken": partial(shaken, begins=_layer(0)),
    "rows-9": partial(rows_shifted, begins=_layer(9) + "mlp/up_proj", first=100, count=40),
    "heads-13": partial(heads_swapped, begins=_layer(13) + "attn/qkv_proj"),
    "layer-27-shaken": partial(shaken, begins=_layer(27)),
    "layer-17-shaken": partial(shaken, begins=_layer(17)),
    "layer-12-shaken": partial(shaken, begins=_layer(12)),
    "norm-24": partial(norm_scaled, name="model.layers.24.input_layernorm.weight", factor=1.5),
    "norm-6": partial(
        norm_scaled, name="model.layers.6.post_attention_layernorm.weight", factor=0.7
    ),
    "norm-20": partial(
        norm_scaled, name="model.layers.20.post_attention_layernorm.weight", factor=1.4
    ),
    "up-18-shrunk": partial(scaled, begins=_layer(18) + "mlp/up_proj", factor=0.7),
    "gate-11-scaled": partial(scaled, begins=_layer(11) + "mlp/gate_proj", factor=1.3),
    "down-21-shrunk": partial(scaled, begins=_layer(21) + "mlp/down_proj", factor=0.7),
    "up-24-block": partial(block_zeroed, begins=_layer(24) + "mlp/up_proj", block=2),
    "down-17-points": partial(zero_points_moved, begins=_layer(17) + "mlp/down_proj"),
    "layer-20-scaled": partial(scaled, begins=_layer(20), factor=1.15),
}
"""Name -> the damage. The gate sees some of it: `rows-9` and `heads-13` are other rows."""


def main() -> None:
    from plant import Model
    from plant_golden import float_kernels

    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name in sys.argv[3:]:
        folder = out / name
        shutil.copytree(source, folder)
        if name == "other_kernels":
            float_kernels(folder)
        else:
            DAMAGE[name](Model(folder))


if __name__ == "__main__":
    main()
