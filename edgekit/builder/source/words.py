"""Reads what a source says of its tokens and search defaults, for `support/generation.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.builder.source.configfile import read_object, read_template
from edgekit.builder.support.change import Refusal
from edgekit.builder.support.generation import (
    GENERATION_NAME,
    beyond_rows,
    of_text,
    unusable,
)
from edgekit.builder.support.pictures import PROCESSOR_FILES, family_of


def words_refusal(folder: Path, config: dict[str, Any]) -> Refusal | None:
    """Why search defaults, token ids or words of a Hugging Face folder fit no row of the model.

    Args:
        folder: a Hugging Face folder.
        config: its config.json; empty for a GGUF file, which transformers reads first.

    Raises:
        UsageError: a file is not a JSON object.
    """
    if not config:
        return None
    return unusable(of_text(config), read_object(folder, GENERATION_NAME)) or beyond_rows(
        config, read_object(folder, "tokenizer.json") or {}, _written(folder)
    )


def _written(folder: Path) -> str:
    """The texts that a folder's chat templates can write: their own, and tokens that they name."""
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    texts = [read_template(folder), *(each.read_text("utf-8", "replace") for each in more)]
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in (read_object(folder, name) or {}).items():
            token = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and any(key in each for each in texts):
                texts.append(str(token))
    return "\n".join(texts)


def processor_refusal(folder: Path, config: dict[str, Any]) -> Refusal | None:
    """Why the processor of a model that takes pictures does something else than a device, or None.

    Args:
        folder: a Hugging Face folder.
        config: its config.json.

    Raises:
        UsageError: a file is not a JSON object.
    """
    family = family_of(config)
    if family is None:
        return None
    return family.words_refusal(config, processor_files(folder))


def processor_files(folder: Path) -> dict[str, Any]:
    """The objects of the processor's files by name, as far as they are there.

    Raises:
        UsageError: a file is not a JSON object.
    """
    files = {name: read_object(folder, name) for name in PROCESSOR_FILES}
    return {name: each for name, each in files.items() if each is not None}
