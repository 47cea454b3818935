"""Checks a requester's grammar before an answer is asked for.

The syntax is llguidance's dialect of Lark (its `docs/syntax.md`). A requester's grammar is text
alone: it names no control tokens, and changes no option of the compiler or of the sampling.
"""

from __future__ import annotations

import json
import re

from edgekit.core.chat.constraint.schema import SchemaError, checked
from edgekit.core.repeated import check_keys

# The lexemes that matter here, as llguidance's lexer has them; any other character is skipped.
_LEXEME = re.compile(
    r"""
    (?P<space>\s+ | (?:\#|//)[^\n]*)
    | (?P<string>"(?:\\.|[^"\\\n])*"i?)
    | (?P<regexp>/(?:\\.|[^/\\])+/[imslux]*)
    | (?P<special><[^<>\s]+>)
    | (?P<directive>%[a-z]+)
    | (?P<reference>@[A-Za-z0-9_\-]+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_\-]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
MAX_RULES = 500  # of rules and terminals; the compiler follows their names by recursion
# What llguidance's sampler or its caller would have to do; this agent does not.
_NOT_SERVED = ("temperature", "stop", "stop_capture")


class LarkError(ValueError):
    """A grammar that is not served; the text says what and where."""


def checked_lark(source: str) -> str:
    """Return a grammar as the worker compiles it: its schemas are those of `checked`.

    Raises:
        LarkError: it holds what is not served.
    """
    if "::=" in source:
        raise LarkError("the grammar is GBNF; this field takes Lark (rule: expression)")
    at, named, rules = 0, "", 0
    parts: list[str] = []  # what the compiler gets
    copied = 0  # how much of the source is in it
    while at < len(source):
        found = _LEXEME.match(source, at)
        assert found is not None, "the last alternative takes any character"
        kind, text, begin, at = found.lastgroup, found[0], at, found.end()
        if kind == "space":
            continue
        if kind == "special":
            raise _at(source, begin, f"{text[:40]} names a token; write its text in quotes")
        if kind == "reference":
            raise _at(source, begin, f"{text[:40]} names another grammar; there is one")
        if kind == "directive":
            start, at, schema = _after_directive(source, begin, at, text)
            if schema:
                parts += [source[copied:start], schema]
                copied = at
        if text == ":":  # outside of strings it stands behind the name of a rule alone
            rules += 1
            if rules > MAX_RULES:
                raise _at(source, begin, f"more than {MAX_RULES} rules and terminals")
        if text == "=" and named in _NOT_SERVED:
            raise _at(source, begin, f"the option {named} is not served")
        named = text if kind == "name" else ""
    return "".join([*parts, source[copied:]])


def _after_directive(source: str, begin: int, at: int, name: str) -> tuple[int, int, str]:
    """Return where the JSON of a directive begins and ends, and the schema to be there instead.

    It is empty where the JSON may stay as it is.
    """
    if name not in ("%json", "%regex", "%ignore", "%import"):
        raise _at(source, begin, f"{name[:40]} is not served")
    if name not in ("%json", "%regex"):
        return at, at, ""
    start, schema = at + len(source[at:]) - len(source[at:].lstrip()), ""
    try:
        value, end = json.JSONDecoder().raw_decode(source, start)
        check_keys(source[start:end].encode())
        if name == "%json" and not isinstance(value, bool):
            schema = checked(value)
    except SchemaError as error:
        raise _at(source, begin, f"%json: {error}") from None
    except (ValueError, RecursionError) as error:
        raise _at(source, begin, f"{name} has no JSON behind it: {error}") from None
    if not schema or json.loads(schema) == value:
        return start, end, ""
    lines = "\n" * source.count("\n", start, end)  # the compiler's errors name lines
    return start, end, schema[0] + lines + schema[1:]


def _at(source: str, place: int, what: str) -> LarkError:
    line = source.count("\n", 0, place) + 1
    return LarkError(f"{what} (line {line}, column {place - source.rfind(chr(10), 0, place)})")
