"""What the agent reads of a model before its process has loaded it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.core import pictures
from edgekit.core.chat.tools.formats import CHAT_RECORD, ChatRecord
from edgekit.core.reading import UNREADABLE


class _GenaiConfig(msgspec.Struct):
    model: dict[str, Any]


def takes_pictures(model_dir: Path) -> bool:
    """Whether the model in this folder takes pictures, by its `genai_config.json`.

    False where that cannot be read: the model's process then fails, and says why.
    """
    try:
        written = (model_dir / "genai_config.json").read_bytes()
        config = msgspec.json.decode(written, type=_GenaiConfig)
    except (OSError, *UNREADABLE):
        return False
    return pictures.takes_pictures(config.model)


def chat_record(model_dir: Path) -> ChatRecord:
    """Return what `pack` found out of the model's chat template.

    Where there is none or it cannot be read, the model counts as one that knows no tools.
    """
    try:
        return msgspec.json.decode((model_dir / CHAT_RECORD).read_bytes(), type=ChatRecord)
    except (OSError, *UNREADABLE):
        return ChatRecord()
