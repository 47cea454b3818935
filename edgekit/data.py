"""Files that travel with the package: `containers/` with the hash locks.

In a checkout they lie beside the package, in a wheel under `edgekit/_data` (see `pyproject.toml`).
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """The file or folder `name`, e.g. `containers/runtime/runtime.lock`.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    for base in (_PACKAGE / "_data", _PACKAGE.parent):
        found = base / name
        if found.exists():
            return found
    raise FileNotFoundError(f"{name} is missing from this installation of edgekit")
