"""Writes what a built model's quantised matrices stand for, as tensors of its checkpoint.

    python dequantised_text.py MODEL CHECKPOINT OUT

Run with the toolchain's interpreter. OUT gets one safetensors file with every tensor of the text
part that MODEL has quantised, dequantised to float32, under the checkpoint's names. So torch can
compute with the very weights of the model.
"""

# mypy: disable-error-code="import-not-found"

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.append(str(Path(__file__).parents[2] / "edgekit" / "builder" / "inside"))
from gate.weights import SourceTensors, quantised


def main(model: Path, checkpoint: Path, out: Path) -> None:
    source, made = SourceTensors(checkpoint), dict[str, np.ndarray]()
    for matrix in quantised(model):
        parts = source.parts(matrix)
        assert parts, f"no tensor is {matrix.name}"
        rows, before = matrix.rows(np.arange(matrix.shape[0])), 0
        for name, first, count in parts:
            whole = source.rows([(name, 0, _rows(source, name))], np.arange(_rows(source, name)))
            target = made.setdefault(name, np.ascontiguousarray(whole))
            target[first : first + count] = rows[before : before + count]
            before += count
    assert made, "nothing is quantised"
    out.mkdir(parents=True, exist_ok=True)
    save_file(made, out / "model.safetensors")


def _rows(source: SourceTensors, name: str) -> int:
    return int(source._where[name][3][0])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
