"""Measures the loss of each layer: its matrices quantised, all others in full precision.

    python layers.py --model FOLDER --source FOLDER --reference FOLDER --matrices FILE [--tokens N]

FILE is a JSON list: the names of the matrices that have a counterpart in the source.

Puts the built model's values, converted to float32, into the float32 source, one layer at a time.
Activations are in float32. The result event has layers: `[{"layer", "kl"}]`, in nats per token.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from common.reporting import Reporter, run
from gate.logits import NAME, Texts, compare, load_logits
from gate.weights import QuantisedMatrix, SourceTensors, quantised
from reference import load


def exchange(model: Any, matrix: QuantisedMatrix, parts: list[tuple[str, int, int]]) -> list[Any]:
    """Put a matrix into the model's parameters; return the values that undo it."""
    import torch

    undo, before = [], 0
    for name, first, count in parts:
        parameter = model.get_parameter(name)
        rows = slice(first, first + count)
        undo.append((parameter, rows, parameter.data[rows].clone()))
        values = matrix.rows(np.arange(before, before + count))
        parameter.data[rows] = torch.from_numpy(np.ascontiguousarray(values))
        before += count
    return undo


def work(args: argparse.Namespace, reporter: Reporter) -> dict[str, Any]:
    """Measure every layer that can be matched with the source; return the result event."""
    import torch

    texts = Texts.load(args.reference / NAME)
    # one text, of the length closest to --tokens: each layer takes one pass
    number = min(
        range(len(texts.sequences)),
        key=lambda n: abs(len(texts.sequences[n].tokens) - args.tokens),
    )
    sequence, wanted = texts.sequences[number], load_logits(args.reference, number)
    reporter.progress("loading the reference")
    model, tensors = load(args.source, None, mapped=False), SourceTensors(args.source)
    alike = set(json.loads(args.matrices.read_text(encoding="utf-8")))
    by_layer: dict[int, list[QuantisedMatrix]] = {}
    for matrix in quantised(args.model):
        if matrix.layer is not None and matrix.name in alike:
            by_layer.setdefault(matrix.layer, []).append(matrix)
    found = []
    for place, (layer, matrices) in enumerate(sorted(by_layer.items())):
        reporter.progress("measuring the layers one by one", place / len(by_layer))
        undo = [u for m in matrices for u in exchange(model, m, tensors.parts(m) or [])]
        with torch.inference_mode():
            ids = torch.tensor([sequence.tokens[:-1]])
            logits = model(input_ids=ids, use_cache=False).logits[0, sequence.first :].numpy()
        found.append(
            {"layer": layer, "kl": float(compare(wanted, logits, sequence.targets).kl.mean())}
        )
        for parameter, rows, values in undo:
            parameter.data[rows] = values
    return {"layers": found, "positions": len(sequence.targets)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--matrices", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    run(parser, work)
