"""Plants faults that only a comparison with the source finds; for the toolchain's interpreter.

    python plant_source.py FOLDER FAULT…     (names: the functions of `FAULTS`, with dashes)

The files stay whole, every id is in range, and the model loads and answers.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # another interpreter runs it as a script

from tests.faults import graph_faults, weight_faults, word_faults
from tests.faults.built import FAULTS, FOR_THE_GATE, Built

__all__ = ["FAULTS", "FOR_THE_GATE"]
MODULES = (graph_faults, weight_faults, word_faults)
"""They fill the table."""


def main() -> None:
    """Plant the faults that are named, and write the graph."""
    plants = {name: planted.plant for name, planted in FAULTS.items()} | FOR_THE_GATE
    built = Built(Path(sys.argv[1]))
    for wanted in sys.argv[2:]:
        plants[wanted](built)
    built.save()


if __name__ == "__main__":
    main()
