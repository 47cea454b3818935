"""Reads config.json of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError

CONFIG_NAME = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; an empty dict for a GGUF file, which has its shape in its header.

    Raises:
        UsageError: the file is not a JSON object.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise UsageError(f"{folder.name} has no readable config.json", str(error)) from error
