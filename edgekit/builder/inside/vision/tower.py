"""`vision.onnx`: CLIP, the HD transform and the projector of Phi-3-vision.

Inputs: `pixel_values` f32 [images, crops, 3, 336, 336], the global view first, then the crops row
by row; `image_sizes` i64 [images, 2], height and width in pixels, multiples of 336.
Output: `image_features` f32 [tokens, hidden]. A picture of h x w crops has (h*w + 1)*144 + 1 +
(h + 1)*12 tokens (`places.py`).

A size of 0 x 0 is a picture of one view: `glb_GN`, then 12 rows of 12 cells and `sub_GN`, 157
tokens. Crops that are computed one by one in that way can be put together to the same features,
because nothing here looks from one crop into another.
"""

from onnx import TensorProto, helper
from vision.encoder import cells, layer, norm, patches
from vision.linear import FP32, linear
from vision.places import CELLS, crops_of, token_places
from vision.weights import GRID, SIDE, VisionWeights
from vision.writing import MICROSOFT, GraphFile

_EPSILON = 1e-5  # CLIP's
_QUICK_GELU = 1.702
_MERGED = 2  # patches on a side of a cell


def write_vision(weights: VisionWeights, graph: GraphFile, precision: str = FP32) -> None:
    """Write the graph and its weights.

    Args:
        graph: the file `vision.onnx`.
        precision: of the matrices, `fp32` or `int8`.
    """
    crops = crops_of(graph)
    states = _clip(graph, weights, crops.pixels, precision)
    table = _projected(graph, weights, _cells(graph, weights, states), precision)
    places = token_places(graph, crops)
    graph.node("Gather", table, places, out="image_features", axis=0)
    info = helper.make_tensor_value_info
    view = ["images", "crops", 3, SIDE, SIDE]
    graph.save(
        [
            info("pixel_values", TensorProto.FLOAT, view),
            info("image_sizes", TensorProto.INT64, ["images", 2]),
        ],
        [info("image_features", TensorProto.FLOAT, ["tokens", weights.hidden])],
    )


def _clip(graph: GraphFile, weights: VisionWeights, pixels: str, precision: str) -> str:
    """CLIP's second to last hidden states [views, 1 + patches, width].

    The last layer and the norm after it come later, and are left out.
    """
    width, count = weights.width, GRID * GRID
    kernel = weights.tower("embeddings.patch_embedding.weight")
    x = patches(graph, pixels, kernel, count)
    views = graph.node("Shape", x, start=0, end=1)
    place = weights.tower("embeddings.position_embedding.weight")
    first = (weights.tower("embeddings.class_embedding") + place[0]).reshape(1, 1, width)
    shape = graph.node("Concat", views, graph.numbers(1, width), axis=0)
    first_of_each = graph.node("Expand", graph.weight("class", first), shape)
    rest = graph.weight("position", place[1:].reshape(1, count, width))
    x = graph.node("Concat", first_of_each, graph.node("Add", x, rest), axis=1)
    x = norm(graph, weights.tower, x, "pre_layrnorm", _EPSILON)
    for number in range(weights.layers - 1):
        at = f"encoder.layers.{number}"
        x = layer(graph, weights.tower, x, at, precision, weights.heads, _EPSILON, _quick_gelu)
    return x


def _quick_gelu(graph: GraphFile, x: str) -> str:
    return graph.node("QuickGelu", x, domain=MICROSOFT, alpha=_QUICK_GELU)


def _cells(graph: GraphFile, weights: VisionWeights, states: str) -> str:
    """Four neighbouring patches as one cell [views * 144, 4 * width]."""
    width, last = weights.width, 1 + GRID * GRID
    # without the class's state
    x = graph.node("Slice", states, graph.numbers(1), graph.numbers(last), graph.numbers(1))
    return cells(graph, x, CELLS, _MERGED, width)


def _projected(graph: GraphFile, weights: VisionWeights, merged: str, precision: str) -> str:
    """Cells, `sub_GN` and `glb_GN` in the text's width [views * 144 + 2, hidden]."""
    ends = [graph.weight(name, weights.own(name).reshape(1, -1)) for name in ("sub_GN", "glb_GN")]
    x = graph.node("Concat", merged, *ends, axis=0)
    for number in (0, 2):
        name = f"img_projection.{number}"
        parts = weights.own(f"{name}.weight"), weights.own(f"{name}.bias")
        x = linear(graph, x, name, *parts, precision)
        x = graph.node("Gelu", x) if number == 0 else x
    return x
