"""What `ask` and `chat` ask of an answer beyond a text, and how they show that."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.cli import render
from edgekit.client import Delta, Final, Requester, SentPicture
from edgekit.core.protocol.wire import MAX_BODY_BYTES, ProtocolError
from edgekit.core.reading import UNREADABLE
from edgekit.core.repeated import check_keys
from edgekit.errors import UsageError

NAME_CHARACTERS = 64  # of a schema's name, as in the protocol


def schema_format(file: Path | None) -> dict[str, Any] | None:
    """Read a JSON Schema; return the `response_format` that asks for it.

    Raises:
        UsageError: the file cannot be read, or is no JSON object.
    """
    if file is None:
        return None
    try:
        if file.stat().st_size > MAX_BODY_BYTES:
            raise UsageError(
                f"{file} is too long",
                f"a prompt has at most {MAX_BODY_BYTES} bytes in all",
                "write a shorter schema",
            )
        schema = msgspec.json.decode(text := file.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read", error.strerror or str(error), "name a file with a JSON Schema"
        ) from None
    except UNREADABLE as error:
        raise UsageError(f"{file} is not JSON", str(error), "write a JSON Schema into it") from None
    if not isinstance(schema, dict):
        raise UsageError(
            f"{file} is no JSON Schema", "it holds no JSON object", "write a JSON Schema into it"
        )
    try:
        check_keys(text)
    except UNREADABLE as error:  # readers disagree on which of the two counts
        raise UsageError(f"{file} has a key twice", str(error), "remove one of the two") from None
    name = file.stem[:NAME_CHARACTERS]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


def show_rest(final: Final, asked: dict[str, Any]) -> None:
    """Show on standard error what the text does not say.

    Args:
        final: the answer.
        asked: the prompt's body.
    """
    for entry in final.logprobs:
        others = [each for each in entry["top_logprobs"] if each["token"] != entry["token"]]
        line = "  ".join(f"{each['logprob']:8.3f} {each['token']!r}" for each in (entry, *others))
        render.err.print(line, markup=False)
    if "response_format" in asked and final.finish_reason == "length":
        render.warn("the answer was cut, so its JSON is not whole: allow more with --max-tokens")


class Unbroken:
    """Which deltas are shown: none behind one that was lost on the way.

    What is shown is the beginning of the answer then, and its final has the rest.
    """

    def __init__(self) -> None:
        self._next = 0
        self._broken = False

    def takes(self, delta: Delta) -> bool:
        """Whether to show this one, which is the next that came."""
        self._broken = self._broken or delta.seq > self._next
        self._next = delta.seq + 1
        return not self._broken


def unshown(shown: str, final: Final) -> str:
    """What of an answer is still to be shown; all of it where something else was shown.

    The device sends a delta at most once, and one may be lost; the final has the whole text.
    """
    return final.text[len(shown) :] if final.text.startswith(shown) else f"\n{final.text}"


def figures(final: Final) -> str:
    """How much the answer was, how fast it came, and why it ended."""
    usage, timings = final.completion["usage"], final.completion.get("timings") or {}
    return (
        f"{usage['completion_tokens']} tokens, {timings.get('predicted_per_second', 0):.0f} "
        f"tokens/s, first after {timings.get('first_token_ms', 0):.0f} ms, {final.finish_reason}"
    )


def shrunk(
    requester: Requester,
    device: str,
    files: Sequence[Path] | None,
    before: Sequence[SentPicture] = (),
) -> list[SentPicture]:
    """Make what is sent of the pictures, and say of each what that is.

    Args:
        before: pictures that the message has already; they count.
    """
    if not files:
        return []
    with render.working(f"shrinking to what {device} takes"):
        made = requester.shrink(device, [*before, *files])[len(before) :]
    for picture in made:
        kind = picture.media_type.removeprefix("image/").upper()
        render.err.print(
            f"{picture.name}: {picture.was_width} x {picture.was_height}, "
            f"{render.size(picture.was_bytes)}; sent as {picture.width} x {picture.height} {kind}, "
            f"{render.size(len(picture.data))}",
            style="dim",
            highlight=False,
            markup=False,
        )
    return made


_OPTIONS = {
    "temperature": "--temperature",
    "max_completion_tokens": "--max-tokens",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "seed": "--seed",
    "stop": "--stop",
    "response_format": "--schema",
    "reasoning_effort": "--effort",
}
"""Which option of `ask` fills a field of the body."""

TOO_LONG = ("context_length_exceeded", "payload_too_large")
"""Codes of an error that a shorter prompt does not have."""


def next_of(error: ProtocolError) -> str:
    """What somebody who asked can do after a device's error; empty where nothing is known."""
    option = _OPTIONS.get(re.split(r"[.\[]", error.param)[0])
    if option and not error.retryable:
        return f"correct {option}, or leave it out"
    if error.code in TOO_LONG:
        return "write a shorter prompt, or ask a device whose context is longer: `edgekit devices`"
    if error.retryable:
        wait = f" in {error.retry_after_ms / 1000:.0f} s" if error.retry_after_ms else ""
        return f"ask again{wait}, or ask another device"
    return error.next_step
