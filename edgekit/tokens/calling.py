"""Finds out how a model is told of tools and how it calls them, from its chat template.

The template renders conversations with one tool, one call and one result. What it writes of the
call is read in each known format (`core.chat.tools`). `pack` records what was found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from edgekit.core.chat.calls import joined
from edgekit.core.chat.tools.formats import FORMATS, OURS, Calling, ToolFormat
from edgekit.core.chat.tools.reading import read_all
from edgekit.tokens.chat import ChatTokenizer
from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import ChatRefusedError

NAME, KEY, VALUE, RESULT = "probe_tool", "probe_key", "probe_value", "probe_result"
ARGUMENTS = {KEY: VALUE}
CALL_ID = "probe0000"  # Mistral's templates take no other length
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {KEY: {"type": "string", "description": "A word."}},
            "required": [KEY],
        },
    },
}
USER: Turn = ("user", "A")
Calls = Literal["object", "text"]


def tool_format(tokenizer: ChatTokenizer) -> ToolFormat:
    """Return how this model is told of tools and calls them; ours where it knows none.

    Args:
        tokenizer: of the model, with its chat template.
    """
    probe = _Probe(tokenizer)
    tokens = tokenizer.added_ids(FORMATS[OURS].tags)
    ours = ToolFormat(OURS, tokens, told=probe.texts_go())
    told: Literal["template", "field"]
    if NAME in probe.rendered([USER], tools=True):
        told = "template"
    elif NAME in probe.rendered([{"role": "system", "content": "A", "tools": NAME}, USER]):
        told = "field"
    else:
        return ours
    calls, null, written = probe.calls(tools=told == "template")
    name = _read(written) if written else _by_tags(tokenizer)
    if not name:
        return ours
    return ToolFormat(name, tokenizer.added_ids(FORMATS[name].tags), told, calls, null)


class _Probe:
    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer

    def rendered(self, turns: Sequence[Turn], *, tools: bool = False) -> str:
        """Return the text of a conversation; empty if the template refuses it."""
        with suppress(ChatRefusedError):
            return self._tokenizer.render(turns, [TOOL] if tools else [])
        return ""

    def texts_go(self) -> Literal["system", "user"]:
        """Return the role whose first message can say something of ours."""
        return "system" if RESULT in self.rendered([("system", RESULT), USER]) else "user"

    def calls(self, *, tools: bool) -> tuple[Literal["object", "text", "none"], bool, str]:
        """Return how the template takes arguments, whether content may be null, what it writes.

        What it writes is empty where it drops calls. In a format that is not read here, `none`.
        """
        ways: tuple[tuple[Calls, Any], ...] = (
            ("object", ARGUMENTS),
            ("text", json.dumps(ARGUMENTS)),
        )
        unread = ""
        for way, arguments in ways:
            for content in (None, ""):
                written = self._written(arguments, content, tools)
                if _read(written):
                    return way, content is None, written
                unread = unread or (written if VALUE in written else "")
        return "none", True, unread

    def _written(self, arguments: Any, content: str | None, tools: bool) -> str:
        """Return what the template writes of a call; empty unless it also writes a result."""
        function = {"name": NAME, "arguments": arguments}
        call = {"id": CALL_ID, "type": "function", "function": function}
        called: Turn = {"role": "assistant", "content": content, "tool_calls": [call]}
        result: Turn = {"role": "tool", "tool_call_id": CALL_ID, "name": NAME, "content": RESULT}
        text = self.rendered([USER, called], tools=tools)
        if RESULT not in self.rendered([USER, called, result], tools=tools):
            return ""
        before = self.rendered([USER], tools=tools)
        pairs = enumerate(zip(before, text, strict=False))
        same = next((at for at, (one, other) in pairs if one != other), min(len(before), len(text)))
        return text[same:]


def _read(text: str) -> str:
    """Return the format in which the probe's call stands in a text; empty if in none.

    Of several that read it, the one that begins a call in these very characters is right, then the
    one that leaves least.
    """
    found: list[tuple[bool, int, int, str]] = []
    for name, form in FORMATS.items():
        said, deltas = read_all(Calling(name, [NAME]), text)
        calls = [call.function for call in joined(deltas)]
        if [each.name for each in calls] != [NAME]:
            continue
        with suppress(ValueError):
            if json.loads(calls[0].arguments) == ARGUMENTS:
                exact = form.head + form.begin + NAME + form.middle in text
                found.append((not exact, len(said), len(found), name))
    return min(found)[-1] if found else ""


def _by_tags(tokenizer: ChatTokenizer) -> str:
    """Return the format most of whose tags the model's tokens or its template have."""
    texts = (*tokenizer.template_texts, *tokenizer.control)

    def count(name: str) -> int:
        return sum(any(tag in text for text in texts) for tag in FORMATS[name].tags if tag)

    name = max(FORMATS, key=count)  # the first of equals
    return name if count(name) else ""
