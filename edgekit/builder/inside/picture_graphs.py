"""Writes `vision.onnx` and `embedding.onnx` of a checkpoint that takes pictures.

    python picture_graphs.py -i FOLDER -o OUT [--vision-precision fp32|int8] --report FILE

FOLDER is what the model builder reads; its own code is neither run nor read. The result event has
`layers`, `width` and `hidden`: layers and width of the vision tower, and the text part's width.
Errors in the checkpoint have the kind `incomplete`.
"""

import argparse
from pathlib import Path
from typing import Any

from common.reporting import Reporter, ScriptError, run
from vision.embedding import write_embedding
from vision.families import family_of
from vision.linear import FP32, INT8
from vision.writing import EMBEDDING_GRAPH, VISION_GRAPH, GraphFile


def write(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Write both graphs; return the result event."""
    family = family_of(args.input)
    if family is None:
        raise ScriptError("incomplete", "config.json is of no model that takes pictures")
    weights = family.weights(args.input)
    args.output.mkdir(parents=True, exist_ok=True)
    reporter.progress(f"writing the vision graph in {args.vision_precision}")
    family.write(weights, GraphFile(args.output / VISION_GRAPH), args.vision_precision)
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
