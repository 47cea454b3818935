"""How families of models write tool calls: a table. Pure values.

Sources: the chat templates of Qwen 2.5 and 3, Hermes 2 Pro, Llama 3.1 and 3.2, Mistral 7B v0.3 and
Small 3.x, Phi-4-mini, Granite 3, FunctionGemma and Gemma 4, and the parsers of vLLM and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

Syntax = Literal["object", "name", "gemma"]


class Format(msgspec.Struct, frozen=True):
    """How one family writes calls: `head`, then the calls with `between` them, then `tail`.

    Attributes:
        begin: before a call's name; `middle` is between name and arguments, `end` behind these.
        opens: tags that begin a call where the model is free; empty if only an answer that begins
            with an object is one.
        closes: tags that may stand behind a call.
        many: whether an answer may have several calls.
        syntax: `object`: a JSON object with the name in it; `name`: the name alone, then a JSON
            object; `gemma`: the name alone, then arguments in Gemma's own notation.
    """

    begin: str
    middle: str
    end: str = ""
    head: str = ""
    between: str = ""
    tail: str = ""
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    many: bool = True
    syntax: Syntax = "object"

    @property
    def tags(self) -> tuple[str, ...]:
        """Every text that a tokenizer may know as one token."""
        names = ("[ARGS]", "[CALL_ID]") if self.syntax == "name" else ()
        return (*self.opens, *self.closes, *names)

    @property
    def tag(self) -> str:
        """The tag that opens calls as they are written here; others are read alone."""
        return next(tag for tag in self.opens if (self.head + self.begin).startswith(tag))


CHAT_RECORD = "chat.json"  # in a packed model's folder
OURS = "edgekit"  # for a model whose template knows no tools
_OBJECT, _ARGUMENTS = '{"name": "', '", "arguments": '
FORMATS: Mapping[str, Format] = {
    "hermes": Format(
        begin="<tool_call>\n" + _OBJECT,
        middle=_ARGUMENTS,
        end="}\n</tool_call>",
        between="\n",
        opens=("<tool_call>",),
        closes=("</tool_call>",),
    ),
    "granite": Format(
        head="<|tool_call|>[",
        begin=_OBJECT,
        middle=_ARGUMENTS,
        end="}",
        between=", ",
        tail="]",
        opens=("<|tool_call|>", "<tool_call>"),
        closes=("</tool_call>",),
    ),
    "phi4-mini": Format(
        head="<|tool_call|>[",
        begin=_OBJECT,
        middle=_ARGUMENTS,
        end="}",
        between=", ",
        tail="]<|/tool_call|>",
        opens=("<|tool_call|>", "functools"),
        closes=("<|/tool_call|>",),
    ),
    "mistral": Format(
        head="[TOOL_CALLS] [",
        begin=_OBJECT,
        middle=_ARGUMENTS,
        end="}",
        between=", ",
        tail="]",
        opens=("[TOOL_CALLS]",),
    ),
    "mistral-args": Format(
        begin="[TOOL_CALLS]", middle="[ARGS]", opens=("[TOOL_CALLS]",), syntax="name"
    ),
    "functiongemma": Format(
        begin="<start_function_call>call:",
        middle="",
        end="<end_function_call>",
        opens=("<start_function_call>",),
        closes=("<end_function_call>",),
        syntax="gemma",
    ),
    "gemma4": Format(
        begin="<|tool_call>call:",
        middle="",
        end="<tool_call|>",
        opens=("<|tool_call>",),
        closes=("<tool_call|>",),
        syntax="gemma",
    ),
    "llama3": Format(
        begin=_OBJECT,
        middle='", "parameters": ',
        end="}",
        between="; ",
        opens=("<|python_tag|>", ""),
        many=False,
    ),
    OURS: Format(
        begin="<tool_call>" + _OBJECT,
        middle=_ARGUMENTS,
        end="}</tool_call>",
        between="\n",
        opens=("<tool_call>",),
        closes=("</tool_call>",),
    ),
}


def format_of(name: str) -> Format:
    """Return the format of this name; ours where no other is known."""
    return FORMATS.get(name, FORMATS[OURS])


def written(form: Format, calls: Iterable[tuple[str, str]]) -> str:
    """Return the text of calls, (name, arguments as JSON), as the model would write them."""
    texts = (form.begin + name + form.middle + arguments + form.end for name, arguments in calls)
    return form.head + form.between.join(texts) + form.tail


class ToolFormat(msgspec.Struct, frozen=True):
    """How a model is told of tools and calls them, as `pack` finds it out.

    Attributes:
        name: of `FORMATS`.
        tokens: tags of the format that are tokens of their own in this model, and their ids.
        told: where the tools go: `template`: it takes them; `field`: into the field `tools` of the
            first system message, which the template writes; `system` and `user`: as text of ours
            into the first message of that role.
        calls: how the template takes the arguments of earlier calls; `none`: it knows no calls, so
            that calls and results become texts of messages.
        null: whether the template takes a message with calls whose content is null; else it is "".
    """

    name: str = OURS
    tokens: dict[str, int] = {}
    told: Literal["template", "field", "system", "user"] = "system"
    calls: Literal["object", "text", "none"] = "none"
    null: bool = True


class Calling(msgspec.Struct, frozen=True):
    """How the calls of one answer are read.

    Attributes:
        format: the name of a format.
        tools: the names of the functions that may be called; no other is.
        shown: tags of the format that are tokens, which the answer's text must show.
        single: the answer ends with its first call.
        free: text may stand before the calls; else the answer is calls, or JSON of a schema.
        bound: the calls follow a grammar: only the tag that the grammar knows opens one.
        json: the answer may be JSON of a schema instead of calls.
    """

    format: str
    tools: list[str]
    shown: list[str] = []
    single: bool = False
    free: bool = True
    bound: bool = False
    json: bool = False


class ChatRecord(msgspec.Struct, frozen=True):
    """What `pack` found out of a model's chat template; the file `CHAT_RECORD`."""

    tools: ToolFormat = ToolFormat()
