"""Checks a JSON Schema before an answer is asked for: what of it is served, and where it is not.

A schema without `$schema` is one of draft 2020-12. In drafts 4 to 7, what stands beside a `$ref`
says nothing. The keywords are those that llguidance enforces (its `docs/json_schema.md`); a schema
with any other would let wrong answers through. Annotations change nothing, and some that llguidance
does not know are left out. What only the compiler can find, such as a pattern that no string
matches, the worker refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any
from urllib.parse import unquote

import msgspec

from edgekit.core.chat.constraint.formats import MAX_SOURCE_BYTES
from edgekit.core.chat.constraint.numbers import (
    BOUNDS,
    LARGEST,
    fractions_in,
    inward,
    is_kept,
    nudged,
)
from edgekit.core.chat.constraint.patterns import FORMATS as STRICTER
from edgekit.core.chat.constraint.patterns import PatternError, translated
from edgekit.core.chat.constraint.recursion import MAX_CHAIN, endless, too_long

MAX_DEPTH = 48  # of objects and arrays in the schema; llguidance reads JSON down to 128
MAX_SCHEMAS = 4000

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = frozenset(
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)  # others have no grammar
ONE = ("items", "additionalItems", "additionalProperties")
SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
NUMBERS = (*BOUNDS, "multipleOf")
TEXTS = ("pattern", "format", "$ref", "$schema")
VALUES = ("const", "enum", "type", "required")
LEFT_OUT = (  # annotations: they change nothing, and llguidance does not know some of them
    *("$comment", "title", "description", "default", "examples", "deprecated", "discriminator"),
    *("readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema"),
)
KNOWN = frozenset((*ONE, *SEVERAL, *NAMED, *COUNTS, *NUMBERS, *TEXTS, *VALUES, *LEFT_OUT))


OLDER = frozenset(f"http://json-schema.org/draft-0{number}/schema" for number in (7, 6, 4))
DIALECTS = OLDER.union(
    f"https://json-schema.org/draft/{date}/schema" for date in ("2020-12", "2019-09")
)
BESIDE = frozenset(["$ref", "$schema", "$id", "definitions", "$defs"])
"""What is read beside a `$ref` of drafts 4 to 7: the draft, and where references lead."""


class SchemaError(ValueError):
    """A schema that is not served; the text names the keyword and its place.

    Attributes:
        valid: whether it is a schema, though none that is served.
    """

    def __init__(self, what: str, pointer: str, *, valid: bool = False) -> None:
        super().__init__(f"{what}, at {pointer or 'the root'} of the schema")
        self.valid = valid


def checked(schema: Mapping[str, Any]) -> str:
    """Return the schema as JSON, without what llguidance does not know and does not need.

    Raises:
        SchemaError: it is no schema, or has what is not served; with its place, a JSON Pointer
            (RFC 6901).
    """
    walk = _Walk(schema)
    kept = walk.schema(schema, "", 0)
    walk.check_references()
    text = msgspec.json.encode(kept)
    if len(text) > MAX_SOURCE_BYTES:
        raise SchemaError(f"{len(text)} bytes; at most {MAX_SOURCE_BYTES}", "")
    where = endless(walk.found)
    if where is not None:
        raise SchemaError("a recursion that no finite answer ends", where)
    return text.decode()


def step(pointer: str, name: object) -> str:
    """Return the JSON Pointer of a member."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


def subschemas(schema: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, Any]]:
    """Yield the pointers and schemas directly below this one."""
    for key, value in schema.items():
        at = step(pointer, key)
        if key in ONE and not isinstance(value, list):
            yield at, value
        elif key in SEVERAL or key in ONE:
            yield from ((step(at, number), each) for number, each in enumerate(value))
        elif key in NAMED:
            yield from ((step(at, name), each) for name, each in value.items())


class _Walk:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self.found: dict[str, Any] = {}  # every schema, by its pointer
        self._references: list[tuple[str, str]] = []
        self._fractions = fractions_in(root)
        self._alone = str(root.get("$schema")).rstrip("#") in OLDER

    def schema(self, schema: object, at: str, depth: int) -> object:
        """Check a schema and those below; return it without what is left out."""
        if isinstance(schema, bool):
            self.found[at] = schema
            return schema
        if not isinstance(schema, Mapping):
            raise SchemaError("a schema is an object, true or false", at)
        if len(self.found) >= MAX_SCHEMAS:
            raise SchemaError(f"more than {MAX_SCHEMAS} schemas", at)
        _check_depth(depth, at)
        if self._alone and "$ref" in schema:
            schema = {key: value for key, value in schema.items() if key in BESIDE}
        self.found[at] = schema
        kept = {}
        for key, value in schema.items():
            if key == "$id" and not at:  # no reference leads there
                continue
            if key not in KNOWN:
                raise SchemaError(f"the keyword {str(key)[:40]!r} is not served", at, valid=True)
            if key not in LEFT_OUT:
                kept[key] = self._keyword(key, value, step(at, key), depth + 1)
        _check_count(kept, at)
        return _with_stricter_format(kept)

    def _keyword(self, key: str, value: Any, at: str, depth: int) -> object:
        if key in SEVERAL or (key == "items" and isinstance(value, list)):
            if not isinstance(value, list) or not value:
                raise SchemaError(f"{key} is a list of schemas", at)
            return [
                self.schema(each, step(at, number), depth + 1) for number, each in enumerate(value)
            ]
        if key in ONE:
            return self.schema(value, at, depth)
        if key in NAMED:
            if not isinstance(value, Mapping):
                raise SchemaError(f"{key} is an object of schemas", at)
            below = {
                name: self.schema(each, step(at, name), depth + 1) for name, each in value.items()
            }
            return _with_patterns(below, at) if key == "patternProperties" else below
        _check_value(value, at, depth)
        wrong = _wrong(key, value)
        if wrong:
            raise SchemaError(f"{key} is {wrong}", at)
        if key in BOUNDS:
            value = inward(value, BOUNDS[key], exclusive=key.startswith("ex"))
            if value % 1 or abs(value) > LARGEST:
                _check_numbers(value, at)
        elif key in ("const", "enum", "multipleOf"):
            _check_numbers(value, at)
        if key == "$ref":
            self._references.append((value, at))
        if key == "$schema" and value.rstrip("#") not in DIALECTS:
            raise SchemaError(f"the dialect {value[:80]!r} is not served", at, valid=True)
        if key == "format" and value not in FORMATS:
            text = (
                f"the format {value[:40]!r} is not served (there are {', '.join(sorted(FORMATS))})"
            )
            raise SchemaError(text, at, valid=True)
        if key in ("exclusiveMinimum", "exclusiveMaximum"):
            return nudged(value, BOUNDS[key], self._fractions)
        return _translated(value, at) if key == "pattern" else value

    def check_references(self) -> None:
        """Check that each `$ref` leads to a schema of this document, and not too far."""
        for reference, at in self._references:
            if not reference.startswith("#"):
                text = f"$ref {reference[:80]!r} leads out of the schema"
                raise SchemaError(text, at, valid=True)
            if unquote(reference[1:]) not in self.found:
                raise SchemaError(f"$ref {reference[:80]!r} leads to no schema", at)
        where = too_long((unquote(reference[1:]), at) for reference, at in self._references)
        if where is not None:
            text = f"references lead over more than {MAX_CHAIN} schemas in a row"
            raise SchemaError(text, where, valid=True)


def _translated(pattern: str, at: str) -> str:
    try:
        return translated(pattern)
    except PatternError as error:
        raise SchemaError(f"pattern: {error}", at, valid=True) from None


def _with_patterns(below: Mapping[str, object], at: str) -> dict[str, object]:
    """Return the schemas of `patternProperties` by what their patterns become."""
    found: dict[str, object] = {}
    for pattern, schema in below.items():
        key = _translated(pattern, step(at, pattern))
        while key in found:  # two patterns that become one are still two
            key += "(?:)"
        found[key] = schema
    return found


def _with_stricter_format(kept: dict[str, Any]) -> dict[str, Any]:
    pattern = STRICTER.get(kept.get("format", ""))
    if pattern is None:
        return kept
    return kept | {"allOf": [*kept.get("allOf", ()), {"pattern": pattern}]}


def _wrong(key: str, value: Any) -> str:
    """Return what the keyword's value must be, if it is something else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in COUNTS and not (number and isinstance(value, int) and value >= 0):
        return "a whole number, 0 or more"
    if key in NUMBERS and not number:
        return "a number"
    if key == "multipleOf" and value <= 0:
        return "a number above 0"
    if key in TEXTS and not isinstance(value, str):
        return "a string"
    if key == "enum" and not (isinstance(value, list) and value):
        return "a list of values"
    if key == "required" and not _is_texts(value):
        return "a list of names"
    types = value if isinstance(value, list) else [value]
    if key == "type" and not (types and all(each in TYPES for each in types)):
        return f"one or some of {', '.join(TYPES)}"
    return ""


def _check_count(schema: Mapping[str, Any], at: str) -> None:
    """Check that a key that comes twice cannot make up for one that is missing.

    Keys that `properties` and `required` do not name may come twice, and JSON counts them once.
    """
    least = schema.get("minProperties", 0)
    if least > max(1, len(set(schema.get("required", ())))):
        text = "minProperties above 1 is served where as many keys are required"
        raise SchemaError(text, step(at, "minProperties"), valid=True)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _check_depth(depth: int, at: str) -> None:
    if depth > MAX_DEPTH:
        raise SchemaError(f"more than {MAX_DEPTH} levels", at)


def _check_numbers(value: object, at: str) -> None:
    """Check that the numbers of a value that is JSON are the same to the compiler."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_numbers(each, step(at, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            _check_numbers(each, step(at, number))
    elif isinstance(value, int | float) and not is_kept(value):
        shown = f" {value}" if isinstance(value, float) or abs(value) < 2**128 else ""
        text = f"the number{shown} is not served: it is no double, or has 17 digits"
        raise SchemaError(f"{text}; round it, or take a string for it", at, valid=True)


def _check_value(value: object, at: str, depth: int) -> None:
    """Check that a value is JSON: CBOR has more."""
    _check_depth(depth, at)
    if isinstance(value, Mapping):
        for name, each in value.items():
            _check_value(each, step(at, name), depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            _check_value(each, step(at, number), depth + 1)
    elif isinstance(value, float) and not isfinite(value):
        raise SchemaError("a number that JSON does not have", at)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise SchemaError("a value that JSON does not have", at)
