"""A model's thinking: the marks around it, and how a request turns it on and off. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from edgekit.core.chat.request import ChatRequest
from edgekit.core.protocol.wire import ProtocolError


class Marks(msgspec.Struct, frozen=True):
    """What a model writes before and behind its thinking, and around its answer; empty: nothing."""

    begin: str
    end: str
    answer_begin: str = ""
    answer_end: str = ""


# The first one of which a chat template writes or reads the end is the model's.
FORMATS = (
    Marks("<think>", "</think>", "<response>", "</response>"),  # Granite 3.3
    Marks("<think>", "</think>"),  # Qwen 3, DeepSeek-R1, SmolLM3, Phi-4-reasoning
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
SWITCHES = ("enable_thinking", "thinking")  # templates' names for thinking on and off


def marks_in(texts: Collection[str]) -> Marks | None:
    """Return the marks of a model whose chat template has these texts; None if it has none."""

    def named(text: str) -> bool:
        return any(text in each for each in texts)

    known = (m for m in FORMATS if named(m.end) and named(m.begin) and named(m.answer_end))
    return next(known, None)


def template_options(request: ChatRequest, known: Collection[str], thinks: bool) -> dict[str, Any]:
    """Return the variables that a request sets for the chat template.

    Args:
        request: the prompt's body.
        known: the variables that the model's template takes.
        thinks: whether the model's thinking has marks.

    Raises:
        ProtocolError: the model does not serve what is asked for; names the field.
    """
    options = dict(request.chat_template_kwargs or {})
    for name in options:
        if name not in known:
            served = ", ".join(sorted(known)) or "no variable"
            text = f"this model's chat template does not take {name}; it takes {served}"
            raise ProtocolError("unsupported_parameter", text, f"chat_template_kwargs.{name}")
    for name, value in _of_effort(request.reasoning_effort, known, thinks).items():
        if options.setdefault(name, value) != value:
            text = f"reasoning_effort and chat_template_kwargs.{name} say different things"
            raise ProtocolError("invalid_request", text, "reasoning_effort")
    return options


def _of_effort(effort: str | None, known: Collection[str], thinks: bool) -> dict[str, Any]:
    if effort is None:
        return {}
    if "reasoning_effort" in known:
        return {"reasoning_effort": effort}
    switch = next((name for name in SWITCHES if name in known), None)
    if switch is not None:
        return {switch: effort != "none"}
    if effort == "none" and not thinks:
        return {}
    why = "thinks in any case" if thinks else "does not think"
    raise ProtocolError("unsupported_parameter", f"this model {why}", "reasoning_effort")
