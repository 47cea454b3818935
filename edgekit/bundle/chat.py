"""Tries a model folder's chat template and tokenizer before they are packed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.chat.tools.formats import ChatRecord
from edgekit.errors import UsageError
from edgekit.tokens.bounds import SECONDS

TRY_SECONDS = 60  # a vocabulary of 256,000 tokens loads in 3
SLOWER = 5  # how much slower than this machine a device may be
_MEND = "mend chat_template.jinja in the source, then build and pack again"


def check_chat(folder: Path) -> ChatRecord:
    """Render chats with the folder's template, in a process of its own.

    Returns:
        What a device has to know of the template.

    Raises:
        UsageError: the agent could not serve chats with this folder: it has no `tokenizer.json` or
            no template, one of them cannot be read, or the template is too slow for a device or
            shows nothing of a user's text.
    """
    command = [sys.executable, "-m", "edgekit.tokens", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TRY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UsageError(
            "the model's chat template does not end",
            f"it was stopped after {TRY_SECONDS} s",
            _MEND,
        ) from None
    try:
        found = msgspec.json.decode(done.stdout, type=dict[str, Any])
    except msgspec.MsgspecError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise UsageError(
            "the model's chat template or tokenizer ended the process that tried it", last, _MEND
        ) from None
    if "what" in found:
        raise UsageError(found["what"], found["why"], found["next_step"] or _MEND)
    slow = found["refusal"].startswith("the chat template was stopped")
    if slow or found["render_seconds"] * SLOWER > SECONDS:
        raise UsageError(
            "the model's chat template is too slow for a device",
            f"the longest conversation took {found['render_seconds']} s here; an agent stops a "
            f"template after {SECONDS:g} s, on a device that may be {SLOWER} times slower",
            _MEND,
        )
    if found["blind"]:
        raise UsageError(
            "the model's chat template shows nothing of a user's text",
            "it writes the same for every text, so that the model would answer none of them",
            _MEND,
        )
    return msgspec.convert(found["record"], ChatRecord)
