"""Reads what a source says of its tokens and search defaults, for `support/generation.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.builder.source.configfile import read_object, read_template
from edgekit.builder.support.change import Refusal
from edgekit.builder.support.generation import GENERATION_NAME, beyond_rows, unusable


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
