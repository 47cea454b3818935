"""Finds references that lead too far: to a schema that contains itself without an end, which no
finite answer matches, or over more schemas than the compiler can follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from typing import Any
from urllib.parse import unquote

MAX_ROUNDS = 64  # what is not settled then, the compiler's first step settles
MAX_CHAIN = 200  # the compiler follows them by recursion, on the stack of its thread
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


def too_long(references: Iterable[tuple[str, str]]) -> str | None:
    """Return the JSON Pointer of a schema with more than `MAX_CHAIN` others behind it; else None.

    A chain is of schemas that references lead to, each within the one before. Those that lead
    around a circle are all counted as one chain, which no search through them is longer than.

    Args:
        references: the schema that each `$ref` leads to, and where the `$ref` is; both pointers.
    """
    references = list(references)
    needs: dict[str, set[str]] = {target: set() for target, _ in references}
    for target, at in references:
        for outer in accumulate(at.split("/"), "{}/{}".format):
            if outer in needs:
                needs[outer].add(target)
    sorter = TopologicalSorter(needs)
    with suppress(CycleError):  # the others can be sorted all the same
        sorter.prepare()
    length, far = 0, ""
    while ready := sorter.get_ready():
        length, far = length + 1, ready[0]
        sorter.done(*ready)
        for each in ready:
            del needs[each]
    far = next(iter(needs), far)
    return far if length + len(needs) > MAX_CHAIN else None


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
