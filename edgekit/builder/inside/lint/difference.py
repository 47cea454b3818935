"""A difference between a built folder and its source, as `builder/lint/source.py` reads it."""

from typing import Any

import numpy as np


def difference(kind: str, where: str, expected: Any, found: Any) -> dict[str, str]:
    """One difference; `kind` is one of `builder/lint/source.py`."""
    return {
        "kind": kind,
        "where": where,
        "expected": _short(expected),
        "found": _short(found),
    }


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
