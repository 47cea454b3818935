"""Finds keys of an answer that get around its schema, because they are spelled with escapes.

To llguidance "\\u0061" is another key than "a", so it is free where others than "a" are: what a
reader then finds under "a" is nothing that the schema allows there. Models do not write so; what
makes them do it is not to pass for valid.
"""

from __future__ import annotations

import re

import msgspec

from edgekit.core.chat.schema import subschemas

# As in `core.repeated`: a string, with the colon behind it if it is a key
_STRING = re.compile(r'("(?:[^"\\]++|\\.)*+")\s*+(:)?')


def misspelled(answer: str, schema: str) -> str | None:
    """Return a key that the schema lists and the answer spells otherwise; None if there is none.

    Args:
        answer: JSON text that follows the schema.
        schema: JSON Schema, as text.
    """
    if "\\" not in answer:
        return None
    listed: set[str] | None = None
    for text, colon in _STRING.findall(answer):
        if not colon or "\\" not in text:
            continue
        key = msgspec.json.decode(text, type=str)
        if msgspec.json.encode(key).decode() == text:
            continue
        listed = _listed(msgspec.json.decode(schema)) if listed is None else listed
        if key in listed:
            return key
    return None


def _listed(schema: object) -> set[str]:
    """Return the names of all properties in a schema."""
    names: set[str] = set()
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            names.update(one.get("properties", ()), one.get("required", ()))
            left += [below for _, below in subschemas(one, "")]
    return names
