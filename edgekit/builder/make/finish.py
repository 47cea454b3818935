"""The two keys that edgekit changes in a folder of the model builder; nothing else is changed.

Both files keep the formatting of their writers: a diff shows the one changed line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def finish(model: Path, context: int) -> None:
    """Remove a trace of this run from tokenizer_config.json; cap the length in genai_config.json.

    Args:
        model: the folder.
        context: cap for `search.max_length`, in tokens. The runtime reserves KV memory for that
            length (the 131072 tokens of Phi-3.5-mini take 103 GB). The model's `context_length`
            stays as it is. A sliding window is reserved in full, however short the context: the
            runtime fails at the first token otherwise.
    """
    # transformers 5 records whether *this* run was allowed to download files
    _rewrite(model / "tokenizer_config.json", 2, lambda c: c.pop("local_files_only", None))
    _rewrite(
        model / "genai_config.json",
        4,
        lambda c: _cap(c.get("search"), max(context, _window(c.get("model") or {}))),
    )


def _cap(search: dict[str, Any] | None, context: int) -> object:
    if not search or search.get("max_length", 0) <= context:
        return None
    search["max_length"] = context
    return context


def _window(model: dict[str, Any]) -> int:
    """The sliding window of the layers that have one, in tokens; else 0."""
    window = (model.get("decoder") or {}).get("sliding_window") or {}
    return 0 if window.get("layers") == [] else int(window.get("window_size") or 0)


def _rewrite(path: Path, indent: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file if `change` changed it, that is, did not return None."""
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if change(config) is None:
        return
    newline = "\n" if path.read_bytes().endswith(b"\n") else ""
    path.write_text(json.dumps(config, indent=indent, ensure_ascii=False) + newline, "utf-8")
