"""Patterns and formats of a schema: what becomes of them, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.core.chat.constraint.lark import LarkError, checked_lark
from edgekit.core.chat.constraint.patterns import PatternError, translated
from edgekit.core.chat.constraint.schema import SchemaError, checked
from tests.harness.grammar_bytes import ByteGrammar

SPACE = r"\t\n\x0B\x0C\r\x20\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF"


@pytest.mark.parametrize(
    ("pattern", "rust"),
    [
        (r"^a|b$", r"^a|b$"),
        (r"^(?:a)(?<n>b)(?i:c){2,3}?$", r"^(?:a)(?<n>b)(?i:c){2,3}?$"),
        (r".", r"[^\n\r\u2028\u2029]"),
        (r"\.", r"\x{2E}"),
        (r"\d\D", r"[0-9][^0-9\x{0}]"),
        (r"\s", f"[{SPACE}]"),
        (r"\p{Lu}", r"[\p{Lu}--\x{0}]"),
        (r"[^\"]", r"[^\x{22}\x{0}]"),
        (r"[a-z&&[^b]]", r"[a-z\x{26}\x{26}\x{5B}\x{5E}b]]"),
        (r"[+--]", r"[\x{2B}-\x{2D}]"),
        (r"[\d-x]", r"[[0-9]\x{2D}x]"),
        (r"[\0-\x1f]", r"[\x{1}-\x{1F}]"),
        (r"[\b\cC]", r"[\x{8}\x{3}]"),
        (r"\ud83d\ude00\u{1F600}\u0041", r"\x{1F600}\x{1F600}A"),
        (r"[^]", r"[^\x{0}]"),
        (r"\bx\1", r"\bx\1"),  # llguidance refuses both
    ],
)
def test_a_pattern_of_ecma_262_is_written_out(pattern: str, rust: str) -> None:
    assert translated(pattern) == rust


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        *((f"^\\{letter}$", "none of ECMA-262") for letter in "AzZahQeG"),
        ("^a\\", "none of ECMA-262"),
        (r"\x{41}", "the escape"),
        (r"\pL", "the escape"),
        (r"\u12", "the escape"),
        (r"\ud83d", "D83D is the code of no character"),
        (r"\u{110000}", "110000 is the code of no character"),
        (r"\0", r"U\+0000"),
        ("[\x01-\x1f]|\0", r"U\+0000"),
        (r"[\0]", "has no character"),
        ("[]", "has no character"),
        ("[a", "has no end"),
        ("[z-a]", "ends first"),
        ("[[:alpha:]]", "POSIX"),
        ("(?s:.)", r"the group '\(\?s:"),
        ("(?x)a", "the group"),
        ("(?P=n)", "the group"),
    ],
)
def test_what_only_another_language_knows_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(PatternError, match=said):
        translated(pattern)
    with pytest.raises(SchemaError, match=f"{said}.*, at /properties/a/pattern of the schema"):
        checked({"properties": {"a": {"pattern": pattern}}})
    with pytest.raises(SchemaError, match=f"{said}.*, at /patternProperties/"):
        checked({"patternProperties": {pattern: {}}})


def test_two_patterns_of_keys_that_become_one_are_both_there() -> None:
    schema = {"patternProperties": {r"^\d$": {"type": "string"}, "^[0-9]$": {"minLength": 1}}}
    kept = json.loads(checked(schema))["patternProperties"]
    assert list(kept.values()) == [{"type": "string"}, {"minLength": 1}]


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (
            "date",
            ["2024-02-29", "2000-02-29", "1999-12-31", "0400-02-29", "2023-02-28", "2100-01-30"],
            ["2023-02-29", "1900-02-29", "2100-02-29", "2024-02-30", "0000-01-01", "2024-04-31"],
        ),
        (
            "date-time",
            ["2024-02-29T23:59:59Z", "1999-12-31t00:00:00.5+14:00"],
            ["2023-02-29T10:00:00Z", "1998-12-31T23:58:60Z", "2024-02-29T23:59:60+00:00"],
        ),
        ("time", ["23:59:59Z", "00:00:00.25-10:30"], ["22:59:60Z", "23:59:60+01:00", "24:00:00Z"]),
        (
            "hostname",
            ["a", "a1.b-c.example", "a" * 62, ".".join(["a" * 62] * 4), ".".join(["a" * 30] * 8)],
            ["xn--a", "ab--c.d", "-a", "a-", "a..b", "a" * 64, ".".join(["a" * 62] * 5)],
        ),
    ],
)
def test_a_format_lets_through_what_its_rfc_does(
    form: str, right: list[str], wrong: list[str]
) -> None:
    grammar = ByteGrammar(checked({"format": form}))
    assert [text for text in right if not grammar.accepts(text)] == []
    assert [text for text in wrong if grammar.accepts(text)] == []
    assert grammar.accepts(5), "a format is for strings"


@pytest.mark.parametrize(
    "more", [{"pattern": "^2"}, {"allOf": [{"pattern": "^2"}]}, {"maxLength": 20}]
)
def test_a_format_goes_with_what_else_is_asked(more: dict[str, Any]) -> None:
    grammar = ByteGrammar(checked({"format": "date-time", **more}))
    assert grammar.accepts("2024-02-29T10:00:00Z")
    assert not grammar.accepts("2023-02-29T10:00:00Z")
    assert not grammar.accepts("1" * 21)


def test_the_schemas_of_a_grammar_are_read_as_others_are() -> None:
    schema = json.dumps({"title": "a", "format": "date", "exclusiveMinimum": 0, "maximum": 0.5})
    source = f'start: "<" %json {schema} ">" | %json {{"const": 1}}\n'
    kept = checked_lark(source)
    assert kept == source.replace(schema, checked(json.loads(schema)))
    longer = schema.replace(", ", ",\n")  # the compiler names the lines of the grammar as it came
    assert checked_lark(f"start: %json {longer}").count("\n") == longer.count("\n")
    with pytest.raises(LarkError, match="the key 'const' comes twice"):
        checked_lark('start: %json {"const": 1, "const": 2}')
