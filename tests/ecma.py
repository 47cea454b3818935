"""Patterns of JSON Schema as ECMA-262 has them (2020-12 core, 6.4): node is the judge."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for

from tests import tools
from tests.javascript import FOLDER


class NoPatternError(ValueError):
    """A pattern that ECMA-262 does not know."""


@cache
def _judge() -> subprocess.Popen[str]:
    """Ends with the process that started it, at the end of its input."""
    return subprocess.Popen(
        [tools.find("node"), FOLDER / "pattern.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


@cache
def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text; raises NoPatternError."""
    judge = _judge()
    assert judge.stdin is not None
    assert judge.stdout is not None
    judge.stdin.write(json.dumps([pattern, text]) + "\n")
    judge.stdin.flush()
    found = json.loads(judge.stdout.readline())
    if found is None:
        raise NoPatternError(pattern)
    return bool(found)


def problem_of(schema: Any, value: Any) -> str:
    """What makes a value invalid by `jsonschema`, its patterns read by ECMA-262; empty if nothing.

    Raises:
        NoPatternError: a pattern that a string was held against is none.
    """
    kind = _with_patterns(validator_for(schema))
    found = next(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value), None)
    return "" if found is None else f"{found.json_path}: {found.message}"


@cache
def _with_patterns(kind: Any) -> Any:
    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    }
    return extend(kind, own)  # type: ignore[no-untyped-call]  # its stubs have no types


def _pattern(
    _validator: Validator, pattern: str, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    for pattern, below in patterns.items():
        for key, value in instance.items() if isinstance(instance, dict) else ():
            if matches(pattern, key):
                yield from validator.descend(value, below, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, wanted: Any, instance: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    patterns = schema.get("patternProperties", ())
    for key, value in instance.items() if isinstance(instance, dict) else ():
        named = key in schema.get("properties", ())
        if not named and not any(matches(each, key) for each in patterns):
            yield from validator.descend(value, wanted, path=key)
