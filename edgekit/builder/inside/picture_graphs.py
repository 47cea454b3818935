"""Writes `vision.onnx` and `embedding.onnx` of a Phi-3-vision checkpoint.

    python picture_graphs.py -i FOLDER -o OUT [--vision-precision fp32|int8] --report FILE

FOLDER is a Hugging Face folder; its own code is neither run nor read. The result event has
`layers`, `width` and `hidden`: layers and width of the CLIP tower, and the width of the text part.
Errors in the checkpoint have the kind `incomplete`.
"""

import argparse
from pathlib import Path
from typing import Any

from common.reporting import Reporter, run
from vision.embedding import write_embedding
from vision.linear import FP32, INT8
from vision.tower import write_vision
from vision.weights import VisionWeights
from vision.writing import EMBEDDING_GRAPH, VISION_GRAPH, GraphFile


def write(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write both graphs; return the result event."""
    weights = VisionWeights(args.input)
    args.output.mkdir(parents=True, exist_ok=True)
    reporter.progress(f"writing the vision graph in {args.vision_precision}")
    write_vision(weights, GraphFile(args.output / VISION_GRAPH), args.vision_precision)
    reporter.progress("writing the embedding graph")
    write_embedding(weights, GraphFile(args.output / EMBEDDING_GRAPH))
    return {"layers": weights.layers, "width": weights.width, "hidden": weights.hidden}


def parser() -> argparse.ArgumentParser:
    """The command line without `--report`."""
    made = argparse.ArgumentParser()
    made.add_argument("-i", "--input", type=Path, required=True)
    made.add_argument("-o", "--output", type=Path, required=True)
    made.add_argument("--vision-precision", default=FP32, choices=(FP32, INT8))
    return made


if __name__ == "__main__":
    run(parser(), write)
