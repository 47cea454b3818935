"""Compares the rotary position tables in a built graph with Hugging Face's.

The tables themselves are compared, because in short texts a wrong base hardly changes the logits.
"""

from pathlib import Path

import numpy as np

NAME = "rotary.npy"
POSITIONS = list(range(2040))
"""Below the length at which a table for long texts takes over, in every known model."""


def rotary_error(tables: list[tuple[np.ndarray, np.ndarray]], reference: Path) -> float | None:
    """Largest difference of a cosine or sine; None where no tables can be compared.

    Each table of the reference is compared with the closest table of the graph; a graph may have
    more, e.g. one for long texts.

    Args:
        tables: the cosines and the sines of each table of the graph, shape (positions, half width).
    """
    found = []
    for wanted in np.load(reference / NAME):
        known = [
            _distance(cosines, sines, wanted)
            for cosines, sines in tables
            if cosines.ndim == 2 and cosines.shape == sines.shape
            if cosines.shape[1] == wanted.shape[2]
        ]
        if known:
            found.append(min(known))
    return max(found) if found else None


def _distance(cosines: np.ndarray, sines: np.ndarray, wanted: np.ndarray) -> float:
    rows = min(len(cosines), len(POSITIONS))
    both = np.stack([cosines[:rows], sines[:rows]]).astype(np.float32)
    return float(np.abs(both - wanted[:, :rows]).max())
