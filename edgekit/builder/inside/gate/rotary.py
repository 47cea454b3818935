"""The rotary position tables that are baked into a built graph, beside Hugging Face's.

A wrong base hardly shows in short texts, so that the tables themselves are compared.
"""

from pathlib import Path

import numpy as np

NAME = "rotary.npy"
POSITIONS = [0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 509, 1021, 2039]


def rotary_error(caches: list[np.ndarray], reference: Path) -> float | None:
    """Largest difference of a cosine; None where nothing can be compared.

    Every table of the reference has to be among the graph's; a graph may have more, e.g. the one
    for long texts.
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
