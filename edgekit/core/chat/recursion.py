"""Finds a schema that no finite answer matches, because it contains itself without an end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

MAX_ROUNDS = 64  # what is not settled then, the compiler's first step settles
SCALARS = {"null", "boolean", "integer", "number", "string"}


def endless(schemas: Mapping[str, Any]) -> str | None:
    """Return the JSON Pointer of a reference that never ends; None if all end.

    The finite schemas are found in rounds: a schema is finite once all that it needs is. What is
    left needs itself.

    Args:
        schemas: every schema of a document by its JSON Pointer; a parent comes before its children.
    """
    finite: set[str] = set()
    waiting = list(reversed(list(schemas)))  # children first
    for _ in range(MAX_ROUNDS):
        left = []
        for at in waiting:
            if _is_finite(schemas[at], at, finite):
                finite.add(at)
            else:
                left.append(at)
        if not left or len(left) == len(waiting):
            break
        waiting = left
    else:
        return None
    needed = [at for at in reversed(left) if isinstance(schemas[at], dict)]
    if "" not in needed:  # a definition that nothing needs may be endless
        return None
    looping: str = next((at for at in needed if "$ref" in schemas[at]), needed[0])
    return looping


def _is_finite(schema: Any, at: str, finite: set[str]) -> bool:
    if isinstance(schema, bool):
        return True
    reference = schema.get("$ref")
    if reference is not None and unquote(reference[1:]) not in finite:
        return False
    if not all(f"{at}/allOf/{n}" in finite for n, _ in enumerate(schema.get("allOf", ()))):
        return False
    for key in ("anyOf", "oneOf"):
        options = schema.get(key, ())
        if options and not any(f"{at}/{key}/{n}" in finite for n, _ in enumerate(options)):
            return False
    return _has_finite_value(schema, at, finite)


def _has_finite_value(schema: Mapping[str, Any], at: str, finite: set[str]) -> bool:
    """Whether a scalar, an array or an object fits what the schema says of these itself."""
    types = schema.get("type", list(SCALARS))
    types = {types} if isinstance(types, str) else set(types)
    if types & SCALARS or "const" in schema or "enum" in schema:
        return True
    if "object" in types:
        own = schema.get("properties", {})
        needed = [name for name in schema.get("required", ()) if name in own]
        names = (name.replace("~", "~0").replace("/", "~1") for name in needed)
        if all(f"{at}/properties/{name}" in finite for name in names):
            return True
    if "array" in types:
        least = schema.get("minItems", 0)
        first = len(schema.get("prefixItems", ()))
        needs = [f"{at}/prefixItems/{number}" for number in range(min(first, least))]
        if least > first and isinstance(schema.get("items"), dict):
            needs.append(f"{at}/items")
        return all(each in finite for each in needs)
    return False
