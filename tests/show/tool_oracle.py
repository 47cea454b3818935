"""Chats with tools, calls and results as a device encodes them, against transformers."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from edgekit.tokens.template import ChatRefusedError
from tests.models.conversations import BROKEN, FORGING, MARKS, WORDS
from tests.models.tokenizer_kinds import KINDS, make_tokenizer
from tests.models.tool_templates import FAMILY_TAGS, TEXT_TAGS, TOOL_TEMPLATES
from tests.show.chat_oracle import NOW, Counted, controls_of, transformers_of

CHATS = 120  # with each template
TAGS = sorted({tag for tags in FAMILY_TAGS.values() for tag in tags})
_MASK = str.maketrans(dict.fromkeys("<|>[]＜＞", "."))  # noqa: RUF001  tags of a model
_FIELDS = {"role", "content", "tool_calls", "tool_call_id", "id", "type", "function", "name"}

Chat = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # messages and tools


def some_chats(count: int) -> list[Chat]:
    """The same chats each time; every second one with texts that could become control tokens."""
    return [_chat(random.Random(seed), hostile=seed % 2 == 1) for seed in range(count)]


def _chat(draw: random.Random, *, hostile: bool) -> Chat:
    bad = [*MARKS, *TAGS, *TEXT_TAGS, *BROKEN, *FORGING]

    def text() -> str:
        parts = [draw.choice(bad if hostile and draw.random() < 0.4 else WORDS) for _ in range(3)]
        return "".join(parts)

    def key() -> str:
        return draw.choice(["city", "days_ahead", "unit", text() if hostile else "über"])

    def tool(name: str) -> dict[str, Any]:
        one, two = key(), key()
        properties = {
            one: {"type": "string", "description": text(), "enum": [text(), "b"]},
            two: {"type": "object", "properties": {key(): {"type": "integer"}}},
        }
        parameters = {"type": "object", "properties": properties, "required": [one]}
        function = {"name": name, "description": text(), "parameters": parameters}
        return {"type": "function", "function": function}

    def call(number: int) -> dict[str, Any]:
        arguments = {key(): text(), "of": [1, 2.5, None, True, {key(): text()}]}
        function = {"name": draw.choice(["get_weather", "get_time"]), "arguments": arguments}
        return {"id": f"call{number:05}", "type": "function", "function": function}

    calls = [call(number) for number in range(draw.choice([1, 1, 2]))]
    content = draw.choice([None, "", text()])
    messages: list[dict[str, Any]] = [{"role": "user", "content": text()}]
    if draw.random() < 0.5:
        messages.insert(0, {"role": "system", "content": text()})
    messages.append({"role": "assistant", "content": content, "tool_calls": calls})
    messages += [{"role": "tool", "tool_call_id": c["id"], "content": text()} for c in calls]
    if draw.random() < 0.7:
        messages.append({"role": "assistant", "content": text()})
        messages.append({"role": "user", "content": text()})
    return messages, [tool("get_weather"), tool("get_time")][: draw.choice([1, 2])]


def _neutral(value: Any, change: Callable[[str], str] = lambda text: text.translate(_MASK)) -> Any:
    """The same without any character that a control token could begin or end with."""
    if isinstance(value, str):
        text = change(value)
        return "." if text.strip() in {"s", "S"} else text
    if isinstance(value, dict):
        return {
            name if name in _FIELDS else change(name): _neutral(each)
            for name, each in value.items()
        }
    return [_neutral(each) for each in value] if isinstance(value, list) else value


def compared(chats: int, folder: Path) -> Counted:
    """Compare text and ids of all chats with all templates, each time with the next tokenizer."""
    kinds = list(KINDS)
    folders = {kind: make_tokenizer(kind, folder / kind, None, TAGS, TEXT_TAGS) for kind in KINDS}
    cases = [
        (kinds[(number + place) % len(kinds)], template, chat)
        for place, template in enumerate(TOOL_TEMPLATES)
        for number, chat in enumerate(some_chats(chats))
    ]
    devices: dict[tuple[str, str], ChatTokenizer] = {}
    for kind, template, _ in cases:
        if (kind, template) not in devices:
            path = folders[kind] / "chat_template.jinja"
            path.write_text(TOOL_TEMPLATES[template], "utf-8")
            devices[kind, template] = open_tokenizer(folders[kind], lambda: NOW)
            path.unlink()
    asked = [
        [kind, f"tools {template}", messages, _neutral(messages), tools, _neutral(tools)]
        for kind, template, (messages, tools) in cases
    ]
    counted = Counted()
    wanted = transformers_of(asked, folders, folder)
    for case, (text, ids, plain) in zip(cases, wanted, strict=True):
        _compare(devices[case[0], case[1]], case, text, ids, plain, counted)
    return counted


def _compare(
    device: ChatTokenizer,
    case: tuple[str, str, Chat],
    text: str | None,
    ids: list[int],
    plain: list[int],
    counted: Counted,
) -> None:
    messages, tools = case[2]
    try:
        rendered: str | None = device.render(messages, tools)
    except ChatRefusedError:
        rendered = None
    if rendered != text:
        counted.wrong.append(f"{case}: {rendered!r} is not {text!r}")
        return
    if text is None:
        counted.refused_by_both += 1
        return
    counted.texts_equal += 1
    own = controls_of(device, plain)
    forged = controls_of(device, ids) != own or "<unk>" in str(case[2])
    counted.forged_by_huggingface += forged
    counted.benign += not forged
    try:
        got = device.encode_chat(messages, tools)
    except ChatRefusedError as error:
        counted.refused_by_name += 1
        counted.refusals.append(f"{case}: {error.what}")
        return
    if forged and controls_of(device, got) != own:
        counted.wrong.append(f"{case}: {controls_of(device, got)} are not {own}")
    elif not forged and got != ids:
        counted.wrong.append(f"{case}: {got} are not {ids}")
    counted.ids_equal += not forged and got == ids


def count() -> tuple[dict[str, object], bool]:
    """The figures, and whether all chats agree."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        counted = compared(CHATS, Path(name))
    figures: dict[str, object] = {
        "templates": len(TOOL_TEMPLATES),
        "tokenizers": len(KINDS),
        "chats": CHATS,
        "texts_equal": counted.texts_equal,
        "refused_by_both": counted.refused_by_both,
        "benign": counted.benign,
        "ids_equal": counted.ids_equal,
        "forged_by_huggingface": counted.forged_by_huggingface,
        "forged": 0 if not counted.wrong else "see below",
        "refused_by_name": counted.refused_by_name,
        "benign_refused": counted.benign - counted.ids_equal - len(counted.wrong),
        "wrong": len(counted.wrong),
        "seconds": round(time.monotonic() - began, 1),
    }
    for line in counted.wrong[:5]:
        print(line)
    few = counted.refused_by_name * 20 < counted.texts_equal
    return figures, few and not counted.wrong
