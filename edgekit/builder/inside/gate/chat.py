"""Compares a model's chats and tokens on a device with Hugging Face's.

`expected` needs transformers, which takes seconds to load; its result is cached with the reference.
The device's side is the package that the agent serves with (`edgekit/tokens`), run by path. Both
sides see one date, since templates print the current one.
"""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from gate.text import load_conversations, load_prompts, taken

NAME = "chat.json"
SHOWN = 200  # characters of a difference in the report
TEXTS = 64
NOW = datetime(2026, 11, 29, 13, 37)  # noqa: DTZ001  local time, as templates print it


class _Frozen(datetime):
    """`datetime` on the day of the comparison."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def expected(tokenizer: Any, prompts: Path) -> dict[str, Any]:
    """Rendered chats, and the tokens of rendered chats and of plain texts.

    `rendered` is None for a chat that the template refuses, e.g. one with a system message.
    """
    conversations = load_conversations(prompts) if tokenizer.chat_template else []
    chats = []
    for conversation in conversations:
        rendered = rendered_chat(tokenizer, conversation)
        chats.append(
            {
                "conversation": conversation,
                "rendered": rendered,
                "tokens": None if rendered is None else _tokens(tokenizer, rendered),
            }
        )
    texts = [prompt["text"] for prompt in load_prompts(prompts, TEXTS)]
    texts += [message["content"] for chat in conversations for message in chat]
    return {
        "chats": chats,
        "texts": [{"text": text, "tokens": _tokens(tokenizer, text)} for text in texts],
    }


def rendered_chat(tokenizer: Any, conversation: list[dict[str, str]]) -> str | None:
    """The text that transformers renders; None if the template refuses the conversation."""
    try:
        with mock.patch("transformers.utils.chat_template_utils.datetime", _Frozen):
            return tokenizer.apply_chat_template(
                taken(tokenizer, conversation), tokenize=False, add_generation_prompt=True
            )
    except Exception:  # the template is the model's own code: it may raise anything
        return None


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def device_tokenizer(package: Path, model: Path) -> Any:
    """The tokenizer as a device has it.

    Args:
        package: the folder `edgekit/tokens`.
        model: the built folder.
    """
    # Last, because the toolchain's own packages come first.
    sys.path.append(str(package.parent.parent))
    from edgekit.tokens.chat import open_tokenizer

    return open_tokenizer(model, lambda: NOW)


def agreement(device: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Counts chats and texts that the device renders or encodes differently."""
    different, mismatches = [], []
    for chat in wanted["chats"]:
        turns = [(message["role"], message["content"]) for message in chat["conversation"]]
        got = _or_refusal(device.render, turns)
        if isinstance(got, str) != isinstance(chat["rendered"], str) or (
            isinstance(got, str) and got != chat["rendered"]
        ):
            different.append(f"{_shown(got)} instead of {_shown(chat['rendered'])}")
        elif isinstance(got, str):
            tokens = _or_refusal(device.encode_chat, turns)
            if tokens != chat["tokens"]:
                mismatches.append(_difference(tokens, chat["tokens"], got))
            mismatches += _forged(device, turns)
    for text in wanted["texts"]:
        tokens = _or_refusal(device.encode, text["text"])
        if tokens != text["tokens"]:
            mismatches.append(_difference(tokens, text["tokens"], text["text"]))
    return {
        "templates": len(wanted["chats"]),
        "template_mismatches": len(different),
        "template_example": different[0] if different else "",
        "token_texts": len(wanted["texts"]) + len(wanted["chats"]),
        "token_mismatches": len(mismatches),
        "token_example": mismatches[0] if mismatches else "",
    }


def _forged(device: Any, turns: list[tuple[str, str]]) -> list[str]:
    """Control tokens that a message's text becomes; a chat that is refused forges none."""
    role, content = turns[-1]
    found = []
    for token in sorted(device.control)[:TEXTS]:
        plain = device.encode_chat([*turns[:-1], (role, f"{content} a")])
        tokens = _or_refusal(device.encode_chat, [*turns[:-1], (role, f"{content} {token}")])
        if isinstance(tokens, list) and device.controls(tokens) != device.controls(plain):
            found.append(f"a message's {token!r} becomes the control token")
    return found


def _or_refusal(call: Any, value: Any) -> Any:
    try:
        return call(value)
    except Exception as error:  # whatever it is, the device does not answer
        return error


def _shown(text: Any) -> str:
    if isinstance(text, str):
        return repr(text[:SHOWN])
    return f"a refusal ({text})" if text else "a refusal"


def _difference(got: Any, wanted: list[int], text: str) -> str:
    if not isinstance(got, list):
        return f"a refusal ({got}) instead of {wanted[:8]} for {text[:40]!r}"
    at = next(
        (n for n, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b),
        min(len(got), len(wanted)),
    )
    return f"{got[at : at + 8]} instead of {wanted[at : at + 8]} at token {at} of {text[:40]!r}"
