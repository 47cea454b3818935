"""What `ask` asks of an answer beyond a text, and how it shows that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgekit.cli import render
from edgekit.client import Final
from edgekit.core.reading import UNREADABLE
from edgekit.core.wire import MAX_BODY_BYTES
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
                f"{file} is too long", f"a prompt has at most {MAX_BODY_BYTES} bytes in all"
            )
        schema = msgspec.json.decode(file.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read", error.strerror or str(error), "name a file with a JSON Schema"
        ) from None
    except UNREADABLE as error:
        raise UsageError(f"{file} is not JSON", str(error), "write a JSON Schema into it") from None
    if not isinstance(schema, dict):
        raise UsageError(f"{file} is no JSON Schema", "it holds no JSON object")
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
