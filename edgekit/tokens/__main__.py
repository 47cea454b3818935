"""Measures a model folder's chat template and tokenizer: `python -m edgekit.tokens FOLDER`.

Prints one JSON object. `pack` runs it in a process of its own, since a template may use any amount
of time and memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.chat.tools.formats import ChatRecord
from edgekit.errors import EdgekitError
from edgekit.tokens.calling import tool_format
from edgekit.tokens.chat import open_tokenizer
from edgekit.tokens.template import ChatRefusedError
from edgekit.tokens.unlike import refuse_unlike

CHARACTERS = 128 << 10  # as many as a prompt's body may have bytes
TURNS = 1023  # one less than a prompt may have; ends with a message of the user


def measured(folder: Path) -> dict[str, Any]:
    """Return the seconds of the longest conversation that a device takes, or its refusal.

    And whether the template shows nothing of a user's text, and what
    `core.chat.tools.formats.ChatRecord` says of it.

    Raises:
        EdgekitError: the template or the tokenizer cannot be read, a letter or sign of ordinary
            text is a control token, or a device would write another text than transformers.
    """
    tokenizer = open_tokenizer(folder)
    _refuse_letters(tokenizer.control)
    refuse_unlike(folder)
    greeting = tokenizer.render([("user", "Hello")])  # a device greets its model with this
    blind = tokenizer.render([("user", "Goodbye")]) == greeting
    content = "a <b> " * (CHARACTERS // TURNS // 6)
    turns = [(("user", "assistant")[turn % 2], content) for turn in range(TURNS)]
    refusal = ""
    started = time.perf_counter()
    try:
        tokenizer.render(turns)
    except ChatRefusedError as error:
        refusal = error.what
    rendered = time.perf_counter()
    return {
        "render_seconds": round(rendered - started, 3),
        "refusal": refusal,
        "blind": blind,
        "record": msgspec.to_builtins(ChatRecord(tool_format(tokenizer))),
    }


def _refuse_letters(control: Collection[str]) -> None:
    """Refuse a tokenizer whose padding token is `!`, say: no answer would show this sign.

    Transformers makes a special token of each token that tokenizer_config.json names.
    """
    signs = sorted(each for each in control if len(each) == 1 and each.isascii() and each.strip())
    if signs:
        named = ", ".join(map(repr, signs))
        raise EdgekitError(
            f"the tokenizer takes {named} for a control token",
            "answers would lose it, and prompts that hold it would be refused",
            "name a token that is no text in the source's tokenizer_config.json (pad_token and the "
            "like), such as its eos_token, then build and pack again",
        )


def main() -> int:
    """Print the measurement, or the error; return the exit code."""
    try:
        found: dict[str, object] = {**measured(Path(sys.argv[1]))}
    except EdgekitError as error:
        found = {"what": error.what, "why": error.why, "next_step": error.next_step}
    print(json.dumps(found))  # noqa: T201  the caller reads it
    return 0


if __name__ == "__main__":
    sys.exit(main())
