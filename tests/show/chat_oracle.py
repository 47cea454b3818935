"""Chats as a device renders and encodes them, against transformers."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import OFFLINE, clean_environment
from edgekit.tokens.chat import ChatTokenizer, open_tokenizer
from edgekit.tokens.template import ChatRefusedError
from tests.building import TESTS, silent
from tests.models.chat_templates import TEMPLATES
from tests.models.conversations import Turns, neutral, some_conversations
from tests.models.tokenizer_kinds import KINDS, make_tokenizer
from tests.models.tool_templates import TOOL_TEMPLATES

CONVERSATIONS = 200
NOW = datetime(2026, 11, 29, 13, 37)  # noqa: DTZ001  local time, as templates print it

Case = tuple[str, str, Turns]


@dataclass
class Counted:
    """How many cases agreed, and what every other one was."""

    texts_equal: int = 0
    refused_by_both: int = 0
    benign: int = 0  # Hugging Face makes no control token of a message's text
    ids_equal: int = 0
    forged_by_huggingface: int = 0
    refused_by_name: int = 0
    refusals: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def cases(conversations: int) -> list[Case]:
    """Every template with every conversation, each time with the next tokenizer."""
    kinds = list(KINDS)
    return [
        (kinds[(number + place) % len(kinds)], template, turns)
        for place, template in enumerate(TEMPLATES)
        for number, turns in enumerate(some_conversations(conversations))
    ]


def compared(conversations: int, folder: Path) -> Counted:
    """Compare text and ids of all cases."""
    chosen = cases(conversations)
    folders = {kind: make_tokenizer(kind, folder / kind) for kind in KINDS}
    devices: dict[tuple[str, str], ChatTokenizer] = {}
    for kind, template, _ in chosen:
        if (kind, template) not in devices:
            path = folders[kind] / "chat_template.jinja"
            path.write_text(TEMPLATES[template], "utf-8")
            devices[kind, template] = open_tokenizer(folders[kind], lambda: NOW)
            path.unlink()
    asked = [
        [kind, template, _messages(turns), _messages(neutral(turns, _reads_tags(device)))]
        for kind, template, turns in chosen
        for device in (devices[kind, template],)
    ]
    wanted = transformers_of(asked, folders, folder)
    counted = Counted()
    for case, (text, ids, plain) in zip(chosen, wanted, strict=True):
        _compare(devices[case[0], case[1]], case, text, ids, plain, counted)
    return counted


def _reads_tags(device: ChatTokenizer) -> bool:
    return "</think>" not in device.control


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def _compare(
    device: ChatTokenizer,
    case: Case,
    text: str | None,
    ids: list[int],
    plain: list[int],
    counted: Counted,
) -> None:
    turns = case[2]
    try:
        rendered: str | None = device.render(turns)
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
    forged = controls_of(device, ids) != own or any("<unk>" in content for _, content in turns)
    counted.forged_by_huggingface += forged
    counted.benign += not forged
    try:
        got = device.encode_chat(turns)
    except ChatRefusedError as error:
        counted.refused_by_name += 1
        counted.refusals.append(f"{case}: {error.what}")
        if not forged and not any(token in each for token in device.control for _, each in turns):
            counted.wrong.append(f"{case}: refused ({error.what})")
        return
    if forged and controls_of(device, got) != own:
        counted.wrong.append(f"{case}: {controls_of(device, got)} are not {own}")
    elif not forged and got != ids:
        counted.wrong.append(f"{case}: {got} are not {ids}")
    counted.ids_equal += not forged and got == ids


def controls_of(device: ChatTokenizer, ids: list[int]) -> list[int]:
    """The control tokens but the unknown one, which stands for any character."""
    unknown = device.encode("<unk>")
    return [token for token in device.controls(ids) if token not in unknown]


def transformers_of(asked: list[Any], folders: dict[str, Path], work: Path) -> list[Any]:
    given, out = work / "cases.json", work / "wanted.json"
    names = {name: str(path) for name, path in folders.items()}
    templates = TEMPLATES | {f"tools {name}": text for name, text in TOOL_TEMPLATES.items()}
    content = {"tokenizers": names, "templates": templates, "cases": asked}
    given.write_text(json.dumps(content), "utf-8")
    python = HostToolchain().ready(silent).python
    subprocess.run(
        [python, "-E", "-s", TESTS / "harness/inside/chat_oracle.py", given, out],
        check=True, timeout=900, env=clean_environment(OFFLINE),
    )  # fmt: skip
    return list(json.loads(out.read_text("utf-8")))


def count() -> tuple[dict[str, object], bool]:
    """The figures, and whether all chats agree."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        counted = compared(CONVERSATIONS, Path(name))
    figures: dict[str, object] = {
        "templates": len(TEMPLATES),
        "tokenizers": len(KINDS),
        "conversations": CONVERSATIONS,
        "texts_equal": counted.texts_equal,
        "refused_by_both": counted.refused_by_both,
        "benign": counted.benign,
        "ids_equal": counted.ids_equal,
        "forged_by_huggingface": counted.forged_by_huggingface,
        "forged": 0 if not counted.wrong else "see below",
        "refused_by_name": counted.refused_by_name,
        "wrong": len(counted.wrong),
        "seconds": round(time.monotonic() - began, 1),
    }
    for line in counted.wrong[:5]:
        print(line)
    return figures, not counted.wrong
