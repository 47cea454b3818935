"""Reads what a source says of its tokens and search defaults, for `support/generation.py`."""

from __future__ import annotations

from collections.abc import Mapping
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
from edgekit.builder.support.seeing.family import TOKENS, WHOLE


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
    files = processor_files(folder)
    refusal = family.words_refusal(config, files)
    if refusal or not family.template_of_processor:
        return refusal
    return _added_words(folder, files)


def processor_template(folder: Path, *, whole: bool) -> str:
    """The chat template that a processor has in a file of its own; empty without one.

    transformers' processors look into processor_config.json, then into chat_template.json, and only
    then where a tokenizer looks.

    Args:
        whole: whether processor_config.json counts.
    """
    names = (*([WHOLE] if whole else []), "chat_template.json")
    told = ((read_object(folder, name) or {}).get("chat_template") for name in names)
    texts = (each.get("default") if isinstance(each, dict) else each for each in told)
    return next((each for each in texts if isinstance(each, str) and each), "")


def _added_words(folder: Path, files: Mapping[str, Any]) -> Refusal | None:
    """Why a processor adds tokens to a prompt that a device does not add, or None.

    transformers' processors do where a prompt does not begin with the first token of a text; its
    tokenizers, and so a device, add none to a chat.
    """
    if not _adds(files.get("tokenizer.json", {}).get("post_processor")):
        return None
    first = files.get(TOKENS, {}).get("bos_token")
    first = first.get("content") if isinstance(first, dict) else first
    template = processor_template(folder, whole=True) or read_template(folder)
    if "bos_token" in template or (first and template.startswith(str(first))):
        return None
    return Refusal(
        "its processor adds tokens to a prompt that a device does not add",
        "the post_processor of tokenizer.json adds some to each text, and the chat template does "
        f"not begin with bos_token ({first})",
        "take the tokenizer and the chat template of the original model",
    )


def _adds(told: object) -> bool:
    """Whether a post-processor of tokenizer.json, or one within it, adds tokens to a text."""
    if not isinstance(told, dict):
        return False
    if told.get("type") in ("BertProcessing", "RobertaProcessing"):
        return True
    if any("SpecialToken" in each for each in told.get("single") or ()):
        return True
    return any(map(_adds, told.get("processors") or ()))


def processor_files(folder: Path) -> dict[str, Any]:
    """The objects of the processor's files by name, as far as they are there.

    Raises:
        UsageError: a file is not a JSON object.
    """
    files = {name: read_object(folder, name) for name in PROCESSOR_FILES}
    return {name: each for name, each in files.items() if each is not None}
