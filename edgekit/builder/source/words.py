"""Reads what a source says of its tokens and search defaults, for `support/generation.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.builder.source.configfile import read_object, read_template
from edgekit.builder.support.change import Refusal
from edgekit.builder.support.generation import GENERATION_NAME, beyond_rows, unusable
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
    return unusable(config, read_object(folder, GENERATION_NAME)) or beyond_rows(
        config, read_object(folder, "tokenizer.json") or {}, read_template(folder)
    )


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
    files = {name: read_object(folder, name) for name in PROCESSOR_FILES}
    return family.words_refusal(config, {name: each for name, each in files.items() if each})
