"""`vision.onnx` of SmolVLM and Idefics3: SigLIP, its patches merged into cells, one projection.

Input: `pixel_values` f32 [pictures, views, 3, side, side], each view on its own.
Output: `image_features` f32 [views * cells, hidden], view by view.

A folder of this family is what `builder/make/renamed.py` writes: the text part as a Llama, the part
that sees in `vision.safetensors`, and its settings, complete, in config.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from common.reporting import ScriptError
from common.weightfiles import in_file, stored
from onnx import TensorProto, helper
from vision.encoder import cells, layer, norm, patches
from vision.linear import FP32, linear
from vision.tensors import Tensors, affine, encoder_layer
from vision.writing import GraphFile

SETTINGS = "edgekit_pictures"  # of config.json, as `builder/support/seeing/smolvlm.py` writes it
FILE = "vision.safetensors"
_TOWER, _PROJECTION = "model.vision_model.", "model.connector.modality_projection.proj.weight"
_UNUSED = "embeddings.position_ids"
_TABLE = ("model.embed_tokens.weight",)


class SmolVlmWeights(Tensors):
    """The vision part and the embedding of a checkpoint.

    Args:
        folder: a folder of this family, as above.

    Raises:
        ScriptError: of kind `incomplete`, where a tensor is missing, has another shape than
            config.json says, is quantised, or has no place.
    """

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))[SETTINGS]
        self.side, self.patch, self.merged = (
            told[key] for key in ("image_size", "patch_size", "scale_factor")
        )
        self.width, self.inner = told["hidden_size"], told["intermediate_size"]
        self.layers, self.heads = told["num_hidden_layers"], told["num_attention_heads"]
        self.epsilon: float = told["layer_norm_eps"]
        seen = dict(in_file(folder / FILE))
        super().__init__({**dict(stored(folder)), **seen}, _TABLE)
        self.hidden = self._at(_PROJECTION).shape[0]
        wanted = self._wanted()
        self._check_shapes(wanted)
        self._check_width(self.hidden)
        if strange := sorted(seen.keys() - wanted.keys() - {_TOWER + _UNUSED}):
            raise ScriptError("incomplete", f"the vision part has no place for {strange[0]}")

    @property
    def grid(self) -> int:
        """Patches on a side of a view."""
        return self.side // self.patch

    def tower(self, name: str) -> np.ndarray:
        """A tensor of the tower as float32, by its name there."""
        return self._values(_TOWER + name)

    def projection(self) -> np.ndarray:
        """The projection's matrix as float32 [hidden, merged * merged * width]."""
        return self._values(_PROJECTION)

    def _wanted(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.patch_embedding.weight": (self.width, 3, self.patch, self.patch),
            "embeddings.patch_embedding.bias": (self.width,),
            "embeddings.position_embedding.weight": (self.grid**2, self.width),
            **affine("post_layernorm", self.width),
        }
        for number in range(self.layers):
            shapes |= encoder_layer(f"encoder.layers.{number}", self.width, self.inner)
        return {_TOWER + name: shape for name, shape in shapes.items()} | {
            _PROJECTION: (self.hidden, self.merged**2 * self.width)
        }


def write_vision(weights: SmolVlmWeights, graph: GraphFile, precision: str = FP32) -> None:
    """Write the graph and its weights.

    Args:
        graph: the file `vision.onnx`.
        precision: of the matrices, `fp32` or `int8`.
    """
    side, read = weights.side, weights.tower
    x = graph.node("Reshape", "pixel_values", graph.numbers(-1, 3, side, side))
    x = patches(graph, x, read("embeddings.patch_embedding.weight"), weights.grid**2)
    # the kernel's bias is the same in every patch, so it lies with the places
    place = read("embeddings.position_embedding.weight")[places(weights.grid)]
    place = place + read("embeddings.patch_embedding.bias")
    x = graph.node("Add", x, graph.weight("position", place[None]))
    for number in range(weights.layers):
        at = f"encoder.layers.{number}"
        x = layer(graph, read, x, at, precision, weights.heads, weights.epsilon, _gelu)
    x = norm(graph, read, x, "post_layernorm", weights.epsilon)
    x = cells(graph, x, weights.grid // weights.merged, weights.merged, weights.width)
    x = linear(graph, x, "projection", weights.projection(), None, precision)
    graph.node("Identity", x, out="image_features")
    info = helper.make_tensor_value_info
    graph.save(
        [info("pixel_values", TensorProto.FLOAT, ["pictures", "views", 3, side, side])],
        [info("image_features", TensorProto.FLOAT, ["tokens", weights.hidden])],
    )


def places(grid: int) -> Any:
    """The row of `position_embedding` of each patch of a whole view.

    transformers finds it with fractions in float32; for some grids that is not the patch's own
    number, and the model was trained so.
    """
    import torch

    step = torch.arange(grid, dtype=torch.float32) * (1.0 / torch.tensor(grid))
    borders = torch.arange(1 / grid, 1.0, 1 / grid)
    found = torch.bucketize(torch.clamp(step, max=1.0 - 1e-6), borders, right=True)
    return (found[:, None] * grid + found[None, :]).reshape(-1).numpy()


def _gelu(graph: GraphFile, x: str) -> str:
    return graph.node("Gelu", x, approximate="tanh")
