"""What edgekit itself changes in a folder that the model builder made: two keys, nothing else.

Both files keep the form their writers give them, so that a diff shows the one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def finish(model: Path, context: int) -> None:
    """Take the run out of tokenizer_config.json, and cap the default length in genai_config.json.

    Args:
        model: the folder.
        context: cap for `search.max_length` in tokens: the runtime reserves the KV memory for it
            (Phi-3.5-mini's own 131072 tokens take 103 GB). The model's own context stays as it is.
    """
    # transformers 5 writes down how *this* run was allowed to look for files
    _rewrite(model / "tokenizer_config.json", 2, lambda c: c.pop("local_files_only", None))
    _rewrite(model / "genai_config.json", 4, lambda c: _cap(c.get("search"), context))


def _cap(search: dict[str, Any] | None, context: int) -> object:
    if not search or search.get("max_length", 0) <= context:
        return None
    search["max_length"] = context
    return context


def _rewrite(path: Path, indent: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a JSON file anew if `change` changed something, i.e. did not return None."""
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if change(config) is None:
        return
    newline = "\n" if path.read_bytes().endswith(b"\n") else ""
    path.write_text(json.dumps(config, indent=indent, ensure_ascii=False) + newline, "utf-8")
