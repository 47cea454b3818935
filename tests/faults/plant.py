"""Plants one defect of quality in a built model folder, run with the toolchain's interpreter.

    python plant.py DEFECT FOLDER [--layer N] [--matrix KIND] [--other FOLDER]

The folder is changed in place, its structure stays whole: sizes, offsets and shapes are as they
were, so that only a measurement can tell.
"""

# mypy: disable-error-code="import-not-found"
# (onnx is the toolchain's)

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

OTHER_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
UNUSED_TOKEN = 17  # SmolLM2: one of its reserved names, never written


class Model:
    """The graph of a folder, its data mapped for writing."""

    def __init__(self, folder: Path) -> None:
        import onnx

        self.folder = folder
        self.graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
        self._dtype: Callable[[int], Any] = onnx.helper.tensor_dtype_to_np_dtype
        self._tensors = {tensor.name: tensor for tensor in self.graph.initializer}

    def array(self, name: str) -> Any:
        """An initialiser out of model.onnx.data; what is written there is in the file."""
        tensor = self._tensors[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self.folder / where["location"], self._dtype(tensor.data_type), "r+",
            offset=int(where["offset"]), shape=tuple(tensor.dims),
        )  # fmt: skip

    def matrices(self, begins: str) -> Iterator[tuple[Any, Any, Any]]:
        """Values, scales and zero points of the matrices whose node's name begins so."""
        for node in self.graph.node:
            if node.op_type == "MatMulNBits" and node.name.startswith(begins):
                yield tuple(self.array(name) for name in node.input[1:4])


def layer_zeroed(model: Model, args: argparse.Namespace) -> None:
    """Every matrix of one layer is nothing."""
    for _, scales, _ in model.matrices(f"/model/layers.{args.layer}/"):
        scales[:] = 0


def scales_doubled(model: Model, args: argparse.Namespace) -> None:
    """One matrix is twice as large as it should be."""
    for _, scales, _ in model.matrices(f"/model/layers.{args.layer}/{args.matrix}/"):
        scales[:] *= 2


def head_rows_swapped(model: Model, args: argparse.Namespace) -> None:
    """Rows of the head (and of a tied embedding) stand at their neighbours' places."""
    for parts in model.matrices("/lm_head/"):
        for part in parts:
            rows = np.array(part[args.first : args.first + args.rows])
            part[args.first : args.first + args.rows] = rows[np.arange(args.rows) ^ 1]


def rope_base(model: Model, args: argparse.Namespace) -> None:
    """The rotary tables are those of another base."""
    cosine, sine = model.array("cos_cache"), model.array("sin_cache")
    length, half = cosine.shape
    frequencies = args.base ** (-np.arange(half) / half)
    angles = np.outer(np.arange(length), frequencies)
    cosine[:], sine[:] = np.cos(angles), np.sin(angles)


def chat_template(model: Model, args: argparse.Namespace) -> None:
    """The chat template is one of another format."""
    (model.folder / "chat_template.jinja").write_text(OTHER_TEMPLATE, encoding="utf-8")


def tokenizer(model: Model, args: argparse.Namespace) -> None:
    """The tokenizer is another model's, whose chat template happens to be the same."""
    shutil.copyfile(args.other / "tokenizer.json", model.folder / "tokenizer.json")


def looping(model: Model, args: argparse.Namespace) -> None:
    """It never ends: the token that ends a text is one that nobody writes."""
    path = model.folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["eos_token_id"] = UNUSED_TOKEN
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")


DEFECTS = {
    plant.__name__: plant
    for plant in (
        layer_zeroed, scales_doubled, head_rows_swapped, rope_base, chat_template, tokenizer,
        looping,
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("defect", choices=DEFECTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--matrix", default="mlp/down_proj")
    parser.add_argument("--first", type=int, default=200)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--base", type=float, default=500_000.0)
    parser.add_argument("--other", type=Path)
    args = parser.parse_args()
    DEFECTS[args.defect](Model(args.folder), args)


if __name__ == "__main__":
    main()
