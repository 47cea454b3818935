"""Paths of the controller's own files: the data files of the package, the cache, and the state.

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
    """Edgekit's cache folder: `$XDG_CACHE_HOME/edgekit`, else `~/.cache/edgekit`."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgekit"


def state_root() -> Path:
    """The folder of what edgekit keeps for a user: `$XDG_STATE_HOME/edgekit`, else
    `~/.local/state/edgekit`."""
    return _base("XDG_STATE_HOME", ".local/state") / "edgekit"


def _base(variable: str, default: str) -> Path:
    """XDG base directory specification: a relative value counts as unset."""
    given = os.environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path.home() / default
