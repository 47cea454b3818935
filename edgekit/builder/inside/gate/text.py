"""Text functions of the gate's scripts: prompts, their rendering, repetition.

Pure, except for the two that load a file. The prompts are in `builder/gate/prompts.json`; its path
is an argument.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

LOOP_NGRAM = 8
LOOP_TIMES = 4
_PROBE, _OTHER = "Xprobe7", "Yrecord3"


def load_prompts(path: Path, count: int, prompt_set: str = "evaluate") -> list[dict[str, str]]:
    """The first `count` prompts of a set, each with id and text."""
    every = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    return [prompt for prompt in every if prompt["set"] == prompt_set][:count]


def load_conversations(path: Path) -> list[list[dict[str, str]]]:
    """The chats whose rendering is compared."""
    return json.loads(path.read_text(encoding="utf-8"))["conversations"]


def taken(tokenizer: Any, chat: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A chat as the template takes it: some take parts alone, and show nothing of a text."""
    text = _shown(tokenizer, _PROBE)
    if _PROBE in text or text != _shown(tokenizer, _OTHER):
        return chat
    if _PROBE not in _shown(tokenizer, [{"type": "text", "text": _PROBE}]):
        return chat
    return [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in chat]


def _shown(tokenizer: Any, content: Any) -> str:
    """What the template makes of a message with this content; empty if it refuses it."""
    said = [{"role": "user", "content": content}]
    try:
        return tokenizer.apply_chat_template(said, tokenize=False)
    except Exception:  # the template is the model's own code: it may raise anything
        return ""


def prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a prompt, rendered by the chat template where the model has one."""
    if not tokenizer.chat_template:
        return list(tokenizer(text)["input_ids"])
    chat = taken(tokenizer, [{"role": "user", "content": text}])
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def stops(model: Any) -> list[int]:
    """The model's stop tokens that it has a row for; the first one also pads."""
    found = model.generation_config.eos_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    return [
        i for i in (found if isinstance(found, list) else [found]) if i is not None and i < rows
    ]


def loops(tokens: list[int], ngram: int = LOOP_NGRAM, times: int = LOOP_TIMES) -> bool:
    """Whether an n-gram of tokens occurs at least `times` times."""
    grams = Counter(tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1))
    return max(grams.values(), default=0) >= times


def cut(tokens: list[int], stops: list[int]) -> tuple[list[int], bool]:
    """A continuation up to its first stop token, and whether there was one."""
    for place, token in enumerate(tokens):
        if token in stops:
            return tokens[:place], True
    return tokens, False
