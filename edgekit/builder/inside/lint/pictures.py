"""Compares the vision and embedding graphs with the checkpoint, by writing them again."""

from pathlib import Path
from typing import Any

import onnx
from lint.difference import difference
from vision.checking import GraphCheck
from vision.embedding import write_embedding
from vision.families import GraphFamily
from vision.linear import FP32, INT8
from vision.writing import EMBEDDING_GRAPH, VISION_GRAPH


def pictures(
    model: Path, source: Path, family: GraphFamily
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Weights and graphs of the part that sees which are not the source's, and the count."""
    if lost := [name for name in (VISION_GRAPH, EMBEDDING_GRAPH) if not (model / name).is_file()]:
        return [difference("vision-graph", name, "a graph", "none") for name in lost], {}
    nodes = onnx.load(model / VISION_GRAPH, load_external_data=False).graph.node
    precision = INT8 if any(node.op_type == "MatMulNBits" for node in nodes) else FP32
    weights, found, compared = family.weights(source), [], 0
    for name in (VISION_GRAPH, EMBEDDING_GRAPH):
        check = GraphCheck(model / name)
        if name == VISION_GRAPH:
            family.write(weights, check, precision)
        else:
            write_embedding(weights, check)
        compared += check.compared
        for tensor in check.differences:
            kind = "vision-graph" if tensor == "the graph" else "vision-weights"
            found.append(difference(kind, f"{tensor} of {name}", "the source's", "another one"))
    return found, {"vision_tensors": compared}
