"""config.json of a model folder, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import UsageError

CONFIG_NAME = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; empty for a GGUF file, whose shape is in its header.

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
