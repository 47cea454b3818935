"""Compares every weight of a built graph with the checkpoint: whole matrices, norms and biases.

A quantised weight has to be the step next to the original one: with a block's scale s and zero
point z it is `round(w / s + z)`, cut to the range of the bits. All quantisers of the locked
onnxruntime end so, whatever they do to choose s and z.
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from lint.checkpoint import CheckpointTensors, Rows
from lint.difference import difference
from lint.stored import Part, Store, StoredMatrix
from lint.wiring import layer_of

PIECE = 2**20  # elements that a thread compares at a time
_THREADS = 4
HALF_STEP = 0.5
_TIE = 0.01  # of a step: w / s is computed in another order
_LOOSEST, _TIGHTEST = 1.5, 0.5
"""Limits of a scale, relative to the one that the range of its block suggests; 0.93 to 1.12 is what
k_quant chooses (measured), and the symmetric methods take up to twice the half range."""
_ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_EXACT = 2.0**-21
_VECTOR = re.compile(r"^(?:model\.layers\.(\d+)\.)?(.*)\.(weight|bias|sinks|expert_bias)$")
_INSIDE = re.compile(r"^(attn|mlp|moe|conv|linear_attn)\.")
_ROTARY = re.compile(r"(cos|sin)_cache")
_PLAIN = re.compile(r"(norm\w*|_proj|dense|fc[12])\.(weight|bias)$")
_FLOATS = {1: "float", 10: "float16", 16: "bfloat16"}  # onnx's numbers


def matrices(
    store: Store,
    source: CheckpointTensors,
    config: Any,
    tied: bool,
    tell: Callable[[float], None],
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The blocks and rows that differ, and what was compared: counts, and names left out.

    Args:
        config: the source's configuration of the text model.
        tied: the head is the embedding.
        tell: told the share that is done.
    """
    stored = store.matrices()
    own = _own(config)
    placed, left = [], list(store.experts())
    for matrix in stored:
        if places := source.matrix(matrix.kind, matrix.layer, matrix.shape, tied):
            placed.append((matrix, places))
        else:
            left.append(matrix.name)

    def compare(pair: tuple[StoredMatrix, list[Rows]]) -> list[dict[str, str]]:
        return list(_matrix(pair[0], source, pair[1], own))

    found: list[dict[str, str]] = []
    # numpy computes without the interpreter's lock
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for number, one in enumerate(pool.map(compare, placed)):
            tell(number / len(placed))
            found += one
    sizes = [matrix.shape for matrix, _ in placed]
    blocks = sum(m.shape[0] * -(-m.shape[1] // (m.block or m.shape[1])) for m, _ in placed)
    return found, {
        "matrices": len(placed),
        "blocks": blocks,
        "weights": sum(rows * columns for rows, columns in sizes),
        "left_out": left,
    }


def _own(config: Any) -> str:
    """The type in which the builder loads weights: the configuration's own."""
    return str(getattr(config, "dtype", None) or "").removeprefix("torch.")


def _matrix(
    matrix: StoredMatrix, source: CheckpointTensors, places: list[Rows], own: str
) -> Iterator[dict[str, str]]:
    slack = _ROUNDING.get(own, _EXACT)
    if all(source.kind(place.name) == own for place in places):
        slack = _EXACT  # the builder loads it as it is
    slack = max(slack, _ROUNDING.get(matrix.element, _EXACT))
    count, first = 0, ""
    for rows, part in matrix.parts(max(1, PIECE // matrix.shape[1])):
        wanted = source.rows(places, rows)
        bad = _unlike(part, wanted, slack) if not matrix.bits else _off(part, wanted, matrix, slack)
        if len(bad):
            count += len(bad)
            row, column = int(bad[0][0]) + rows.start, int(bad[0][1])
            unit = "block" if matrix.bits else "column"
            first = first or f"row {row}, {unit} {column}"
    if count:
        kind = "weight-blocks" if matrix.bits else "weight-values"
        if matrix.kind == "embed_tokens" or matrix.name == "/lm_head":
            kind = "token-rows"
        what = "blocks" if matrix.bits else "weights"
        yield difference(kind, f"{matrix.name} {first}", "the source's", f"{count} {what} differ")


def _unlike(part: Part, wanted: np.ndarray, slack: float) -> np.ndarray:
    have = np.asarray(part.values).astype(np.float32)
    return np.argwhere(~(np.abs(have - wanted) <= slack * np.abs(wanted) + 1e-7))


def _off(part: Part, wanted: np.ndarray, matrix: StoredMatrix, slack: float) -> np.ndarray:
    """(row, block) of the blocks in which a weight is not the step next to the original one."""
    assert part.scales is not None
    assert part.zeros is not None
    rows, blocks = part.scales.shape
    if missing := blocks * matrix.block - wanted.shape[1]:
        wanted = np.pad(wanted, ((0, 0), (0, missing)))
    have = np.asarray(part.values).reshape(rows, -1)
    if have.shape[1] < wanted.shape[1]:
        have = np.pad(have, ((0, 0), (0, wanted.shape[1] - have.shape[1])))
        have[:, matrix.shape[1] :] = np.repeat(part.zeros[:, -1:], missing, axis=1)
    wanted = wanted.reshape(rows, blocks, matrix.block)
    largest, smallest = wanted.max(axis=2), wanted.min(axis=2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = wanted / part.scales[..., None]
    np.nan_to_num(steps, copy=False)  # a scale of 0, and a weight of 0
    steps += part.zeros[..., None]
    np.clip(steps, part.lowest, part.highest, out=steps)
    steps -= have.reshape(steps.shape)
    off = np.maximum(steps.max(axis=2), -steps.min(axis=2))
    range_of = part.highest - part.lowest
    bad = off > HALF_STEP + _TIE + slack * range_of
    spread, size = largest - smallest, np.maximum(np.abs(largest), np.abs(smallest))
    scale = np.abs(part.scales)
    bad |= (spread > 0) & (scale * range_of < _TIGHTEST * spread)
    bad |= (spread > 0) & (scale * range_of > _LOOSEST * 2 * size)
    return np.argwhere(bad)


def vectors(
    store: Store, source: CheckpointTensors, config: Any
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The norms and biases that differ, and what was compared.

    Some norms multiply with 1 + weight, and the builder stores the sum. Which one a model has is
    what most of its norms have.
    """
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    compared, left = [], []
    for name, tensor in store.graph.weights.items():
        match = _VECTOR.match(name)
        if match is None or tensor.data_type not in _FLOATS or _ROTARY.search(name):
            continue
        if len(tensor.dims) != 1:
            continue  # a matrix
        have = store.array(tensor)
        layer = int(match[1]) if match[1] else None
        kind = _INSIDE.sub("", match[2]).removesuffix(".layernorm").removesuffix(".Add")
        last = kind == "final_norm_layernorm" or (layer is not None and layer >= layers)
        wanted = source.vector(kind, None if last else layer, match[3], have.size)
        if wanted is None:
            if have.any() or match[3] != "bias":  # the builder adds biases of zeros
                left.append(name)
            continue
        slack = max(
            _ROUNDING.get(_own(config), _EXACT), _ROUNDING.get(_FLOATS[tensor.data_type], _EXACT)
        )
        # the gated norm of a linear attention never adds
        norm = "norm" in kind and match[3] == "weight" and "linear_attn" not in name
        compared.append((name, have.reshape(-1).astype(np.float32), wanted, slack, norm))
    more = _added(compared)
    found = []
    for name, have, original, slack, norm in compared:
        wanted = original + more if norm else original
        off = ~(np.abs(have - wanted) <= slack * (np.abs(wanted) + more * norm) + 1e-7)
        if off.any():
            at = int(np.argmax(off))
            found.append(
                difference(
                    "norm-weights" if norm else "bias-weights",
                    f"{name}[{at}]",
                    wanted[at],
                    have[at],
                )
            )
    return found, {"vectors": len(compared), "left_out": left}


def missing(
    store: Store, source: CheckpointTensors, known: set[str]
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Norms, biases and projections of the source that the graph has nowhere.

    Args:
        known: names of the source's parameters within a layer.
    """
    nodes = [node.name for node in store.graph.proto.node if "/final_norm" not in node.name]
    layers = max((layer for name in nodes if (layer := layer_of(name)) is not None), default=-1)
    found, left = [], []
    for name in source.unused(layers + 1, known):
        if name.endswith(".bias") and not source.values(name).any():
            continue  # the builder leaves out biases of zeros
        if "experts." in name or not _PLAIN.search(name):
            left.append(name)
        else:
            found.append(difference("weights-missing", name, "a part of the graph", "none"))
    return found, {"left_out": left}


def _added(compared: list[tuple[str, np.ndarray, np.ndarray, float, bool]]) -> int:
    """0 or 1: what the builder adds to the weights of this model's norms."""
    votes = [
        int(np.abs(have - wanted - 1).mean() < np.abs(have - wanted).mean())
        for _, have, wanted, _, norm in compared
        if norm
    ]
    return int(2 * sum(votes) > len(votes))
