"""Plants what golden prompts must see, and what they must allow, run with the toolchain's
interpreter:

    python plant_golden.py SOURCE OUT KIND...

Each KIND becomes a copy of the model folder SOURCE below OUT. `float_kernels` is healthy: the same
weights, computed in float32 instead of int8, as on a CPU without the instructions for it.
"""

# mypy: disable-error-code="import-not-found"
# (onnx is the toolchain's)

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from plant import Model

LAYER = re.compile(r"/model/layers\.(\d+)/")


def _matrices(graph: Any) -> dict[int, list[Any]]:
    """Layer -> its quantised matrices."""
    found: dict[int, list[Any]] = {}
    for node in graph.node:
        layer = LAYER.match(node.name)
        if node.op_type == "MatMulNBits" and layer:
            found.setdefault(int(layer[1]), []).append(node)
    return found


def float_kernels(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = 1
    onnx.save(model, folder / "model.onnx")


def layer_zeroed(folder: Path) -> None:
    model = Model(folder)
    layers = _matrices(model.graph)
    for node in layers[sorted(layers)[len(layers) // 2]]:
        model.array(node.input[2])[:] = 0


def matrix_doubled(folder: Path) -> None:
    model = Model(folder)
    layers = _matrices(model.graph)
    for node in layers[sorted(layers)[len(layers) // 2]]:
        if "down_proj" in node.name:
            model.array(node.input[2])[:] *= 2


def layers_swapped(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    layers = _matrices(model.graph)
    first = sorted(layers)[len(layers) // 3]
    for one, other in zip(layers[first], layers[first + 1], strict=True):
        for place in range(1, len(one.input)):
            one.input[place], other.input[place] = other.input[place], one.input[place]
    onnx.save(model, folder / "model.onnx")


KINDS = {
    plant.__name__: plant for plant in (float_kernels, layer_zeroed, matrix_doubled, layers_swapped)
}


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    for kind in sys.argv[3:]:
        shutil.copytree(source, out / kind)
        KINDS[kind](out / kind)


if __name__ == "__main__":
    main()
