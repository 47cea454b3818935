"""Finds tokenizers whose text a device would not write as Hugging Face's decode does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgekit.errors import EdgekitError
from edgekit.tokens.folder import CONFIG, TOKENIZER

_CLEANS = "clean_up_tokenization_spaces"
_EVEN_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


class _TokenizerModel(msgspec.Struct):
    type: str = ""
    merges: Any = None


class _TokenizerFile(msgspec.Struct):
    model: _TokenizerModel
    decoder: dict[str, Any] | None = None


def refuse_unlike(folder: Path) -> None:
    """Refuse a model's folder whose tokens become another text on a device, or none.

    Args:
        folder: its tokenizer was loaded without an error.

    Raises:
        EdgekitError: names the setting.
    """
    file = msgspec.json.decode((folder / TOKENIZER).read_bytes(), type=_TokenizerFile)
    config: dict[str, Any] = {}
    if (folder / CONFIG).is_file():
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _refuse_cleaning(file.model, config)
    for step in _steps(file.decoder or {}):
        if step.get("type") == "Strip" and step.get("stop"):
            raise EdgekitError(
                "the tokenizer's decoder takes signs off the end of a text",
                f"its step Strip has stop {step['stop']}; the tokenizers library ends the process "
                "over a text of such signs alone, and a streamed answer has no end yet",
                "set stop to 0 in the decoder of the source's tokenizer.json, then build and pack "
                "again",
            )


def _refuse_cleaning(model: _TokenizerModel, config: dict[str, Any]) -> None:
    """Refuse a text that is changed as a whole, after its tokens: transformers' clean-up.

    It takes the blank before a full stop or an apostrophe away. transformers ignores the setting
    for BPE.
    """
    bpe = model.type == "BPE" or (not model.type and model.merges is not None)
    if config.get(_CLEANS) and (not bpe or config.get(_EVEN_BPE)):
        named = f"{_CLEANS} and {_EVEN_BPE}" if bpe else _CLEANS
        raise EdgekitError(
            "the tokenizer's answers would have blanks that transformers takes away",
            f"{CONFIG} sets {named}; a device streams an answer as its tokens spell it",
            f"set {_CLEANS} to false in the source's {CONFIG}, then build and pack again",
        )


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield decoder
    for step in decoder.get("decoders", ()):
        yield from _steps(step)
