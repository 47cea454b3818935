"""Reads config.json of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError

CONFIG_NAME = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; an empty dict for a GGUF file, which has its shape in its header.

    Raises:
        UsageError: the file is not a JSON object.
    """
    return read_object(folder, CONFIG_NAME) or {}


def read_object(folder: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a folder; None where it is missing.

    Raises:
        UsageError: the file is not a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except UNREADABLE as error:
        raise UsageError(
            f"{folder.name} has no readable {name}",
            str(error),
            "download it again, or correct it",
        ) from error


def read_template(folder: Path) -> str:
    """The chat template's text, from its own file or tokenizer_config.json; empty without one.

    Raises:
        UsageError: tokenizer_config.json is not a JSON object.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    given = (read_object(folder, "tokenizer_config.json") or {}).get("chat_template") or ""
    # several templates are a list of objects
    return given if isinstance(given, str) else msgspec.json.encode(given).decode()
