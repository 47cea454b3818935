"""Checks a requester's grammar before an answer is asked for.

The syntax is llguidance's dialect of Lark (its `docs/syntax.md`). A requester's grammar is text
alone: it names no control tokens, and changes no option of the compiler or of the sampling.
"""

from __future__ import annotations

import json
import re

from edgekit.core.chat.constraint.schema import SchemaError, checked

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


def check_lark(source: str) -> None:
    """Check a grammar; the worker compiles it.

    Raises:
        LarkError: it holds what is not served.
    """
    if "::=" in source:
        raise LarkError("the grammar is GBNF; this field takes Lark (rule: expression)")
    at, named, rules = 0, "", 0
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
            at = _after_directive(source, begin, at, text)
        if text == ":":  # outside of strings it stands behind the name of a rule alone
            rules += 1
            if rules > MAX_RULES:
                raise _at(source, begin, f"more than {MAX_RULES} rules and terminals")
        if text == "=" and named in _NOT_SERVED:
            raise _at(source, begin, f"the option {named} is not served")
        named = text if kind == "name" else ""


def _after_directive(source: str, begin: int, at: int, name: str) -> int:
    """Return where the text goes on behind a directive and its JSON."""
    if name not in ("%json", "%regex", "%ignore", "%import"):
        raise _at(source, begin, f"{name[:40]} is not served")
    if name not in ("%json", "%regex"):
        return at
    start = at + len(source[at:]) - len(source[at:].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(source, start)
        if name == "%json" and not isinstance(value, bool):
            checked(value)
    except SchemaError as error:
        raise _at(source, begin, f"%json: {error}") from None
    except (ValueError, RecursionError) as error:
        raise _at(source, begin, f"{name} has no JSON behind it: {error}") from None
    return end


def _at(source: str, place: int, what: str) -> LarkError:
    line = source.count("\n", 0, place) + 1
    return LarkError(f"{what} (line {line}, column {place - source.rfind(chr(10), 0, place)})")
