"""Fields of prompts that want something bad of a compiler, by what is bad about them."""

from __future__ import annotations

from typing import Any


def with_schema(schema: Any) -> dict[str, Any]:
    """The fields of a prompt that wants this schema."""
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    return {"response_format": form}


def nested(levels: int) -> dict[str, Any]:
    """Arrays in arrays."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def product(factors: int, width: int = 6) -> dict[str, Any]:
    """A schema whose parts have width ** factors combinations."""
    option = "p{}_{}".format
    return {
        "allOf": [
            {"anyOf": [{"required": [option(n, m)]} for m in range(width)]} for n in range(factors)
        ],
        "type": "object",
    }


def objects(count: int) -> dict[str, Any]:
    """An object that may have each of so many properties."""
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}}


LOOP = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
REFUSED: dict[str, dict[str, Any]] = {
    "recursive": with_schema(LOOP),
    "endless reference": with_schema({"anyOf": [{"$ref": "#"}]}),
    "one megabyte": with_schema({"enum": ["x" * 100] * 10_000}),
    "deep": with_schema(nested(90)),
    "exponential": with_schema(product(9)),
    "many optional properties": with_schema(objects(2500)),
    "exponential pattern": with_schema(
        {"allOf": [{"type": "string", "pattern": f"[ab]*a[ab]{{{20 + n}}}"} for n in range(12)]}
    ),
    "invalid": with_schema({"properties": {"a": {"type": "text"}}}),
    "invalid pattern": with_schema({"properties": {"a": {"pattern": "("}}}),
    "unsupported keyword": with_schema({"properties": {"a": {"not": {"type": "null"}}}}),
    "unsatisfiable": with_schema({"items": {"minimum": 5, "maximum": 3, "type": "integer"},
                                  "type": "array", "minItems": 1}),
    "control token": {"grammar": 'start: "a" <|im_end|> "b"'},
    "rules that double": {
        "grammar": "start: x0\n" + "\n".join(f"x{n}: x{n + 1} x{n + 1}" for n in range(40))
        + '\nx40: "a"'
    },
    "deep expression": {"regex": "(" * 3000 + "a" + ")" * 3000},
}  # fmt: skip
"""Refused before the first token."""

BOUNDED: dict[str, dict[str, Any]] = {
    "ambiguous": {"grammar": 'start: start start | "a"'},
    "ambiguous stars": {"grammar": 'start: ((((("a"?)*)*)*)*)*'},
    "repetitions": {"regex": "(a{1,1000}){1,1000}"},
    "many states": {"regex": "(.*a.{30}){30}"},
    "a long constant": {"grammar": 'start: "' + "a" * 60_000 + '"'},
    "a long enum": with_schema({"enum": [f"{n}-{'x' * 20}" for n in range(2000)]}),
}
"""Answered up to a limit, or refused on the way: never long without an end."""
