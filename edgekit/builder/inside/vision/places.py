"""Which row of the projected cells becomes which token, as integer arithmetic on `image_sizes`.

The order of a picture's tokens: its crops as one large grid, row by row, each row followed by
`sub_GN`; `glb_GN`; the global view in the same way. One Gather takes all of them.
"""

from dataclasses import dataclass

from onnx import TensorProto
from vision.weights import SIDE
from vision.writing import GraphFile

CELLS = 12  # of a view, on a side
VIEW = CELLS * CELLS
ROW = CELLS + 1  # a row of the global view with its `sub_GN`


@dataclass(frozen=True)
class Crops:
    """Names of values in the graph.

    Attributes:
        pixels: the views that are used [views, 3, 336, 336].
        height, width: crops of each picture [images].
        views: crops of each picture and its global view [images].
    """

    pixels: str
    height: str
    width: str
    views: str


def crops_of(graph: GraphFile) -> Crops:
    """Read `image_sizes`, and leave out the views of `pixel_values` that only fill up."""
    counts = graph.node("Div", "image_sizes", graph.number(SIDE))
    height = graph.node("Gather", counts, graph.number(0), axis=1)
    width = graph.node("Gather", counts, graph.number(1), axis=1)
    crops = graph.node("Mul", height, width)
    most = graph.node("Gather", graph.node("Shape", "pixel_values"), graph.number(1))
    number = graph.node("Range", graph.number(0), most, graph.number(1))
    used = graph.node(
        "LessOrEqual",
        graph.node("Unsqueeze", number, graph.numbers(0)),
        graph.node("Unsqueeze", crops, graph.numbers(1)),
    )
    used = graph.node("Reshape", used, graph.numbers(-1))
    flat = graph.node("Reshape", "pixel_values", graph.numbers(-1, 3, SIDE, SIDE))
    pixels = graph.node("Compress", flat, used, axis=0)
    return Crops(pixels, height, width, graph.node("Add", crops, graph.number(1)))


def token_places(graph: GraphFile, crops: Crops) -> str:
    """The row of each token [tokens], in a table of all cells, then `sub_GN`, then `glb_GN`."""

    def of(operator: str, left: str, right: str | int) -> str:
        other = graph.number(right) if isinstance(right, int) else right
        return graph.node(operator, left, other)

    views_before = graph.node("CumSum", crops.views, graph.number(0), exclusive=1)
    sub = of("Mul", graph.node("ReduceSum", crops.views, keepdims=0), VIEW)
    glb = of("Add", sub, 1)
    ends = of("Add", of("Mul", of("Add", crops.height, 1), CELLS), 1)
    counts = of("Add", of("Mul", crops.views, VIEW), ends)
    until = graph.node("CumSum", counts, graph.number(0))
    total = graph.node("ReduceSum", counts, keepdims=0)
    token = graph.node("Range", graph.number(0), total, graph.number(1))
    over = graph.node(
        "GreaterOrEqual",
        graph.node("Unsqueeze", token, graph.numbers(1)),
        graph.node("Unsqueeze", until, graph.numbers(0)),
    )
    over = graph.node("Cast", over, to=TensorProto.INT64)
    picture = graph.node("ReduceSum", over, graph.numbers(1), keepdims=0)

    def its(values: str) -> str:
        return graph.node("Gather", values, picture, axis=0)

    at = of("Sub", token, its(of("Sub", until, counts)))  # within its picture
    height, width, first = its(crops.height), its(crops.width), its(views_before)

    # in the crops: row by row, `wide` cells and `sub_GN`
    wide = of("Mul", width, CELLS)
    row_length = of("Add", wide, 1)
    crops_length = of("Mul", of("Mul", height, CELLS), row_length)
    row, column = of("Div", at, row_length), of("Mod", at, row_length)
    crop = of("Add", of("Mul", of("Div", row, CELLS), width), of("Div", column, CELLS))
    cell = of("Add", of("Mul", of("Mod", row, CELLS), CELLS), of("Mod", column, CELLS))
    view = of("Add", of("Add", first, 1), crop)
    in_crop = of("Add", of("Mul", view, VIEW), cell)
    in_crop = graph.node("Where", of("Equal", column, wide), sub, in_crop)

    # in the global view, after `glb_GN`
    after = of("Sub", at, of("Add", crops_length, 1))
    row, column = of("Div", after, ROW), of("Mod", after, ROW)
    in_global = of("Add", of("Mul", first, VIEW), of("Add", of("Mul", row, CELLS), column))
    in_global = graph.node("Where", of("Equal", column, CELLS), sub, in_global)

    rest = graph.node("Where", of("Equal", at, crops_length), glb, in_global)
    return graph.node("Where", of("Less", at, crops_length), in_crop, rest)
