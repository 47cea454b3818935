"""transformers' log-softmax of rows of logits, run with the toolchain's interpreter.

python log_softmax.py LOGITS.npy OUT.npy
"""

# mypy: disable-error-code="import-not-found"
# (the imports are the toolchain's)

import sys

import numpy as np


def main() -> None:
    import torch
    from transformers.generation.logits_process import LogitNormalization

    logits = torch.from_numpy(np.load(sys.argv[1]))
    np.save(sys.argv[2], LogitNormalization()(None, logits).numpy())


if __name__ == "__main__":
    main()
