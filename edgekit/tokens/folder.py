"""Reads what a model's folder says about chats: template, named tokens, tokens that end an answer.

Files and their order of precedence are those of transformers 5 (`from_pretrained` of a tokenizer):
`chat_template.jinja` and `additional_chat_templates/` come before `tokenizer_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
RUNTIME_CONFIG = "genai_config.json"
TEMPLATE = "chat_template.jinja"
TOOL_USE = "tool_use"  # the name of the template that transformers takes for prompts with tools
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ChatFolder:
    """What a model's folder says about chats.

    Attributes:
        tokenizer: path of `tokenizer.json`.
        template: the chat template; None if the model has none.
        named: the text of each named token, e.g. of `bos_token`.
        eos_token_ids: tokens that end an answer.
        tool_template: the chat template for prompts with tools, if that is another one.
        listed: added tokens that the model's maker lists as control tokens.
    """

    tokenizer: Path
    template: str | None
    named: Mapping[str, str] = field(default_factory=dict)
    eos_token_ids: frozenset[int] = frozenset()
    tool_template: str | None = None
    listed: frozenset[str] = frozenset()


def read_chat_folder(folder: Path) -> ChatFolder:
    """Read a model's folder.

    Raises:
        EdgekitError: `tokenizer.json` is missing, or a file cannot be read.
    """
    if not (folder / TOKENIZER).is_file():
        raise EdgekitError(
            f"{folder} has no {TOKENIZER}",
            "texts become tokens by Hugging Face's library, which reads this file alone",
            "build the model again: `edgekit build` writes the file",
        )
    config = _object(folder / CONFIG)
    runtime = _object(folder / RUNTIME_CONFIG).get("model", {})
    eos = runtime.get("eos_token_id", []) if isinstance(runtime, dict) else []
    listed = config.get("chat_control_tokens")
    templates = _templates(folder, config)
    return ChatFolder(
        folder / TOKENIZER,
        templates.get("default"),
        dict(_named(folder, config)),
        frozenset(eos if isinstance(eos, list) else [eos]),
        templates.get(TOOL_USE),
        frozenset(filter(_is_text, listed if isinstance(listed, list) else [])),
    )


def _templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    found = {}
    if (folder / TEMPLATE).is_file():
        found["default"] = _text(folder / TEMPLATE)
    more = folder / "additional_chat_templates"
    found |= {path.stem: _text(path) for path in sorted(more.glob("*.jinja"))}
    if not found:
        configured = config.get("chat_template")
        if isinstance(configured, list):
            found = {str(each["name"]): str(each["template"]) for each in configured}
        elif isinstance(configured, dict):
            found = {str(name): str(each) for name, each in configured.items()}
        elif isinstance(configured, str):
            found = {"default": configured}
    if found and "default" not in found:
        raise EdgekitError(
            f"{folder} has several chat templates and none is the default",
            f"their names are {', '.join(sorted(found))}; transformers refuses this, too",
            f"copy the one to use into {TEMPLATE}",
        )
    return found


def _named(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "added_tokens_decoder" not in config:  # transformers 4 wrote the named tokens to a file
        config = config | _object(folder / "special_tokens_map.json")
    more = config.get("model_specific_special_tokens"), config.get("extra_special_tokens")
    for table in (config, *(each for each in more if isinstance(each, dict))):
        for name, value in table.items():
            text = value.get("content") if isinstance(value, dict) else value
            known = table is not config or name in NAMED or name.endswith("_token")
            if known and isinstance(text, str):
                yield name, text


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise EdgekitError(f"{path} is not JSON", str(error)) from error
    if not isinstance(found, dict):
        raise EdgekitError(f"{path} is not a JSON object", f"it holds {type(found).__name__}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgekitError(f"{path} cannot be read", str(error)) from error
