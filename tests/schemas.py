"""`python -m tests.schemas`: whether docs/protocol/schemas is what the core's types say;
`--write` makes it so.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core import pictures
from edgekit.core.chat.completion import Completion
from edgekit.core.chat.request import ChatRequest
from edgekit.core.protocol import envelope, payloads, wire
from edgekit.core.rules.message import RuleAnswer

FOLDER = Path(__file__).parents[1] / "docs" / "protocol" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[str, type[msgspec.Struct]] = {
    "chat-request": ChatRequest,
    "control": wire.Control,
    "accepted": payloads.AcceptedPayload,
    "delta": payloads.DeltaPayload,
    "final": Completion,
    "error": payloads.Error,
    "state": payloads.StatePayload,
    "card": wire.Card,
    "status": wire.Status,
    "desired": payloads.DesiredPayload,
    "update": payloads.UpdatePayload,
    "rule-answer": RuleAnswer,
    "envelope": envelope.Envelope,
    "envelope-reply": envelope.ReplyEnvelope,
}
# Titles that were published under another name than the type has now; generated clients use them.
TITLES = {
    payloads.AcceptedPayload: "Accepted",
    payloads.DeltaPayload: "Delta",
    payloads.StatePayload: "State",
    payloads.DesiredPayload: "Desired",
    payloads.UpdatePayload: "Update",
    envelope.ReplyEnvelope: "Answer",
}


def schema(type_: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of what a type reads or writes."""
    (_,), parts = msgspec.json.schema_components(
        [type_], schema_hook=pictures.schema, ref_template="#/$defs/{name}"
    )
    for part in parts.values():  # Python 3.13 strips the indentation, 3.11 does not
        part["description"] = inspect.cleandoc(part["description"])
    parts = _without_discriminators(parts)
    root = parts.pop(type_.__name__)
    root["title"] = TITLES.get(type_, root["title"])
    return {"$schema": DIALECT, **root, **({"$defs": parts} if parts else {})}


def _without_discriminators(schema: Any) -> Any:
    """Leave out OpenAPI's `discriminator`, which AsyncAPI knows in another shape: each part of a
    union has a constant `type` all the same."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if key != "discriminator"}
        return {key: _without_discriminators(value) for key, value in kept.items()}
    if isinstance(schema, list):
        return [_without_discriminators(each) for each in schema]
    return schema


def files() -> dict[str, str]:
    """The text of every file by its name."""
    return {
        f"{name}.json": json.dumps(schema(type_), indent=2) + "\n" for name, type_ in TYPES.items()
    }


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of files that are not as they should be, or should not be."""
    found = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    made = files()
    return sorted(name for name in found | made if found.get(name) != made.get(name))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 when a file is not current."""
    parser = argparse.ArgumentParser("python -m tests.schemas", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite docs/protocol/schemas")
    if parser.parse_args(argv).write:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name in stale():
            (FOLDER / name).unlink(missing_ok=True)
        for name, text in files().items():
            (FOLDER / name).write_text(text, "utf-8")
    names = stale()
    if names:
        print(f"not current: {' '.join(names)}; run `python -m tests.schemas --write`")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
