"""Paths of the controller's own files: the data files of the package, and the cache.

`containers/` (hash locks) and `deploy/` (systemd unit) lie beside the package in a checkout and
under `edgekit/_data` in a wheel (see `pyproject.toml`).
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Find the file or folder `name`, e.g. `containers/runtime/runtime.lock`.

    Raises:
        FileNotFoundError: this installation does not have it.
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
