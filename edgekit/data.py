"""Where the controller's own files are: those that travel with the package, and its cache.

`containers/` with the hash locks and `deploy/` with the systemd unit lie beside the package in a
checkout, in a wheel under `edgekit/_data` (see `pyproject.toml`).
"""

from __future__ import annotations

import os
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


def cache_root() -> Path:
    """Edgekit's cache folder: `$XDG_CACHE_HOME/edgekit`, else `~/.cache/edgekit` (XDG base
    directory specification: a relative value counts as unset)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "edgekit"
