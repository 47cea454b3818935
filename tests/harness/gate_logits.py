"""Runs a built model as the gate does; for the toolchain's interpreter.

python gate_logits.py INSIDE FOLDER    prints how many rows of logits and how many tokens came out
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    model = importlib.import_module("gate.runtime").BuiltModel(Path(sys.argv[2]))
    print(len(model.logits(list(range(8, 32)))), len(list(model.continued([8, 9, 10], 4))))


if __name__ == "__main__":
    main()
