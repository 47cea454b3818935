"""Compares a built model's chat template and tokenizer with Hugging Face's.

`expected` needs transformers, which takes seconds to load; its result is cached with the reference.
A template that uses today's date is rendered again on every run.
"""

import json
from pathlib import Path
from typing import Any

from gate.text import load_conversations, load_prompts

NAME = "chat.json"
SHOWN = 200  # characters of a difference in the report
TEXTS = 64


def expected(tokenizer: Any, prompts: Path) -> dict[str, Any]:
    """Rendered chats, and the tokens of rendered chats and of plain texts.

    A chat that the template refuses, e.g. one with a system message, is left out.
    """
    chats = []
    for conversation in load_conversations(prompts) if tokenizer.chat_template else []:
        rendered = _rendered(tokenizer, conversation)
        if rendered is not None:
            chats.append({"conversation": conversation, "rendered": rendered})
    texts = [prompt["text"] for prompt in load_prompts(prompts, TEXTS)]
    texts += [chat["rendered"] for chat in chats]
    # a rendered chat contains its special tokens; without a template the tokenizer adds them
    plain = not chats
    return {
        "dated": "strftime_now" in str(tokenizer.chat_template),
        "chats": chats,
        "texts": [
            {"text": text, "tokens": list(tokenizer(text, add_special_tokens=plain)["input_ids"])}
            for text in texts
        ],
    }


def _rendered(tokenizer: Any, conversation: list[dict[str, str]]) -> str | None:
    from jinja2.exceptions import TemplateError

    try:
        return tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
    except TemplateError:
        return None


def agreement(tokenizer: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Counts chats and texts that onnxruntime-genai's tokenizer renders or splits differently."""
    different, example = 0, ""
    for chat in wanted["chats"]:
        try:
            got = tokenizer.apply_chat_template(
                json.dumps(chat["conversation"]), add_generation_prompt=True
            )
        except Exception as error:  # any exception means that the runtime cannot render the chat
            got = f"nothing ({error})"
        if got != chat["rendered"]:
            different += 1
            example = example or f"{got[:SHOWN]!r} instead of {chat['rendered'][:SHOWN]!r}"
    mismatches, instead = 0, ""
    for text in wanted["texts"]:
        got_tokens = [int(token) for token in tokenizer.encode(text["text"])]
        if got_tokens != text["tokens"]:
            mismatches += 1
            instead = instead or (
                f"{got_tokens[:8]} instead of {text['tokens'][:8]} for {text['text'][:40]!r}"
            )
    return {
        "templates": len(wanted["chats"]),
        "template_mismatches": different,
        "template_example": example,
        "token_texts": len(wanted["texts"]),
        "token_mismatches": mismatches,
        "token_example": instead,
    }
