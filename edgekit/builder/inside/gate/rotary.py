"""Compares the rotary position tables in a built graph with Hugging Face's.

The tables themselves are compared, because in short texts a wrong base hardly changes the logits.
"""

from pathlib import Path

import numpy as np

NAME = "rotary.npy"
POSITIONS = [0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 509, 1021, 2039]


def rotary_error(caches: list[np.ndarray], reference: Path) -> float | None:
    """Largest difference of a cosine; None where no tables can be compared.

    Each table of the reference is compared with the closest table of the graph; a graph may have
    more, e.g. one for long texts.
    """
    tables = np.load(reference / NAME)
    found = []
    for table in tables:
        fitting = [c for c in caches if c.ndim == 2 and c.shape[1] == table.shape[1]]
        known = [_distance(cache, table) for cache in fitting]
        if known:
            found.append(min(known))
    return max(found) if found else None


def _distance(cache: np.ndarray, table: np.ndarray) -> float:
    inside = [i for i, position in enumerate(POSITIONS) if position < len(cache)]
    rows = cache[[POSITIONS[i] for i in inside]].astype(np.float32)
    return float(np.abs(rows - table[inside]).max())
