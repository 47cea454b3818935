"""Plants one defect of attention or its cache in a built folder, with the toolchain's interpreter.

    python plant_attention.py FOLDER DEFECT…

Only model.onnx or the rotary tables of model.onnx.data change. A prompt of less than 128 tokens,
read at once, gives the same logits as before.
"""

# mypy: disable-error-code="import-not-found"
# (onnx is the toolchain's)

import argparse
from pathlib import Path
from typing import Any

import numpy as np

PAST = slice(3, 5)  # inputs of GroupQueryAttention: past keys and past values
WINDOW = 128
BEYOND = 400


def _attention(graph: Any) -> list[Any]:
    return [node for node in graph.node if node.op_type == "GroupQueryAttention"]


def past_swapped(graph: Any, folder: Path) -> None:
    """Every layer takes its past keys for values, and its past values for keys."""
    for node in _attention(graph):
        node.input[PAST] = [*reversed(node.input[PAST])]


def caches_crossed(graph: Any, folder: Path) -> None:
    """Two layers read each other's cache."""
    one, other = _attention(graph)[10:12]
    one.input[PAST], other.input[PAST] = [*other.input[PAST]], [*one.input[PAST]]


def window(graph: Any, folder: Path) -> None:
    """Every layer sees the last tokens only."""
    for node in _attention(graph):
        for attribute in node.attribute:
            if attribute.name == "local_window_size":
                attribute.i = WINDOW


def rotary_tail(graph: Any, folder: Path) -> None:
    """The rotary tables are wrong beyond the positions of a usual prompt."""
    for tensor in graph.initializer:
        if tensor.name in ("cos_cache", "sin_cache"):
            where = {entry.key: entry.value for entry in tensor.external_data}
            table = np.memmap(
                folder / where["location"], np.float32, "r+",
                offset=int(where["offset"]), shape=tuple(tensor.dims),
            )  # fmt: skip
            table[BEYOND:] = np.array(table[: len(table) - BEYOND])


DEFECTS = {plant.__name__: plant for plant in (past_swapped, caches_crossed, window, rotary_tail)}


def main() -> None:
    import onnx

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("defects", nargs="+", choices=DEFECTS)
    args = parser.parse_args()
    file = args.folder / "model.onnx"
    model = onnx.load(file, load_external_data=False)
    for defect in args.defects:
        DEFECTS[defect](model.graph, args.folder)
    onnx.save(model, file)


if __name__ == "__main__":
    main()
