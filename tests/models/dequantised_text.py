"""Writes the quantised matrices of a built text part as float32 tensors under the source's names.

    python dequantised_text.py INSIDE MODEL SOURCE OUT

Run with the toolchain's interpreter. INSIDE is `edgekit/builder/inside`. With these tensors torch
computes what an exact runtime makes of the built model's weights.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    inside, model, source, out = map(Path, sys.argv[1:])
    sys.path.insert(0, str(inside))
    import numpy as np
    from gate.weights import SourceTensors, quantised
    from safetensors.numpy import save_file

    tensors = SourceTensors(source)
    pieces: dict[str, dict[int, Any]] = {}
    for matrix in quantised(model):
        values = matrix.rows(np.arange(matrix.shape[0]))
        before = 0
        for name, first, count in tensors.parts(matrix) or ():
            pieces.setdefault(name, {})[first] = values[before : before + count]
            before += count
        assert before == matrix.shape[0], matrix.name
    # the builder splits a tensor, such as gate_up_proj, by its rows
    made = {
        name: np.concatenate([parts[first] for first in sorted(parts)]).astype(np.float32)
        for name, parts in pieces.items()
    }
    out.mkdir()
    save_file(made, out / "model.safetensors")
    print(len(made))


if __name__ == "__main__":
    main()
