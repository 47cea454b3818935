"""Schemas of answers as programs ask for them; each is small enough that every answer ends.

A number without `multipleOf`, and the seconds of a `date-time`, may have digits without an end; a
small model at temperature 1 then goes on until the answer's limit.
"""

from __future__ import annotations

from typing import Any


def text(longest: int, **more: Any) -> dict[str, Any]:
    """A string of bounded length."""
    return {"type": "string", "maxLength": longest, **more}


def record(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def listed(items: Any, most: int, least: int = 0) -> dict[str, Any]:
    """An array of bounded length."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


ADDRESS = record(street=text(30), number={"type": "integer", "minimum": 1, "maximum": 999})
TREE = {
    "$defs": {"leaf": {"type": "integer", "minimum": 0, "maximum": 9}},
    **record(left={"$ref": "#/$defs/leaf"}, right=listed({"$ref": "#/$defs/leaf"}, 3)),
}
HALVES = {"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.5}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": record(name=text(30), age={"type": "integer", "minimum": 0, "maximum": 120}),
    "nested": record(name=text(20), home=ADDRESS, work={"anyOf": [ADDRESS, {"type": "null"}]}),
    "deep": record(a=record(b=record(c=record(d=record(e=text(10)))))),
    "array": listed(text(12), 5, 2),
    "matrix": listed(listed({"type": "integer", "minimum": -9, "maximum": 9}, 3, 3), 3, 3),
    "tuple": {
        "type": "array",
        "prefixItems": [text(8), {"type": "boolean"}, {"type": "null"}],
        "items": False,
        "minItems": 3,
    },
    "enum": record(colour={"enum": ["red", "green", "blue"]}, size={"enum": [1, 2.5, None, "XL"]}),
    "constant": record(kind={"const": "alarm"}, level={"const": 3}),
    "integer": record(value={"type": "integer", "exclusiveMinimum": 17, "maximum": 4711}),
    "number": record(
        celsius={"type": "number", "minimum": -40.5, "maximum": 125.25, "multipleOf": 0.25}
    ),
    "multiple": record(percent={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}),
    "pattern": record(plate={"type": "string", "pattern": "^[A-Z]{1,3}-[A-Z]{2} [1-9][0-9]{0,3}$"}),
    "formats": record(
        day={"type": "string", "format": "date"},
        id={"type": "string", "format": "uuid"},
        address={"type": "string", "format": "ipv4"},
    ),
    "unicode": record(
        **{"größe": text(10), "城市": {"enum": ["東京", "Zürich", "Москва"]}, "😀": text(5)}
    ),
    "escapes": record(**{'say "hi"': text(8), "back\\slash": {"const": 'a"\\\n\t\u0001'}}),
    "optional": {
        "type": "object",
        "properties": {"a": text(5), "b": {"type": "boolean"}, "c": listed({"type": "null"}, 2)},
        "required": ["b"],
        "additionalProperties": False,
    },
    "union": {
        "oneOf": [
            record(kind={"const": "circle"}, radius=HALVES),
            record(kind={"const": "square"}, side={"type": "integer", "minimum": 1, "maximum": 9}),
        ]
    },
    "merged": {
        "allOf": [
            {"type": "object", "properties": {"a": text(6)}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": True, "b": True},
    },
    "map": {
        "type": "object",
        "patternProperties": {"^s[0-9]$": {"type": "integer", "minimum": 0, "maximum": 255}},
        "additionalProperties": False,
        "maxProperties": 4,
    },
    "references": TREE,
}
