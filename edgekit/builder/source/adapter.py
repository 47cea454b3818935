"""Reads the headers of a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.request.optionfiles import missing_option_path
from edgekit.builder.source.safetensors import StoredTensor, read_weight_file
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """adapter_config.json and the tensors of an adapter.

    Raises:
        UsageError: the folder is not there, or not that of an adapter.
    """
    if not folder.exists():
        raise missing_option_path("adapter_path", folder)
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder.name} is not the folder of an adapter",
                why=f"it has no {name}",
                next_step="give the folder that PEFT's save_pretrained wrote, with safetensors",
            )
    try:
        settings = msgspec.json.decode((folder / SETTINGS).read_bytes(), type=dict[str, Any])
    except UNREADABLE as error:
        raise UsageError(
            f"{SETTINGS} of {folder.name} cannot be read",
            why=str(error),
            next_step="save or download it again",
        ) from error
    return settings, read_weight_file(folder / WEIGHTS)
