"""Patterns of a schema let through exactly what ECMA-262 does: node is the oracle.

Only U+0000 is let through nowhere (`edgekit/core/chat/constraint/patterns.py`).
"""

from __future__ import annotations

import pytest

from edgekit.core.chat.constraint.schema import checked
from tests.ecma import matches
from tests.harness.grammar_bytes import ByteGrammar

CHARACTERS = (
    *"aAbZz09_- ",
    *"\t\n\x0b\x0c\r\x85\xa0\u180e\u200b\u2028\u2029\u3000\ufeff",  # white space, or nearly
    *"\x01\x03\x08\x1f\x7féÉß\u017f\u212aΩ٣庸\U0001f600",
    *'[]{}&~^$.,/\\#<>:|"+',
)
TEXTS = ("", *CHARACTERS, *(a + b for a in CHARACTERS for b in CHARACTERS), "cat", "aab", "a#b")
PATTERNS = (
    *(rf"^{each}$" for each in (r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", r"\p{L}", r"\P{L}")),
    *(
        rf"^[{each}]$"
        for each in (r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", r"\p{Lu}", r"\P{P}")
    ),
    *(rf"^[^{each}]$" for each in (r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", r"\p{L}", "a-z")),
    *(r'^[^"\\]$', r'^[^"]*$', r"^[^\\]+$", r"^[^\n]$", r"^[\u0000-\u001f]$", r"^[^\x00-\x1f]$"),
    *(r"^[[a]]$", r"^[a&&b]$", r"^[^a&&b]$", r"^[a-z&&[^b]]$", r"^[+--]$", r"^[a~~b]$", r"^[^]$"),
    *(r"^[-a]$", r"^[a-]$", r"^[^-]$", r"^[\d-x]$", r"^[\d\-]$", r"^[^\s\d]$", r"^[\W\d]$"),
    *(r"^[\]\[]$", r"^[[]$", r"^[\\]$", r"^[$^]$", r"^[\cC]$", r"^[\b]$", r"^[\t-\r]$", r"^\cC$"),
    *(r"^\x41$", r"^\u{1F600}$", r"^\ud83d\ude00$", r"^[\ud83d\ude00]$", r"^\u00e9", r"^\/\-$"),
    *(
        r"a",
        "^a",
        "a$",
        r"^a|b$",
        r"^(a|b)$",
        "",
        "^$",
        r"\.",
        r"^a.b$",
        r"^.*$",
        r"^\S+$",
        r"^\s*$",
    ),
    *(r"^a{2,}b?$", r"^(?:ab)+$", r"^(?<n>a)$", r"^#$", r"^ $", r"^]$", r"^}$", r"^\<$", r"^\_$"),
    r"^\p{Script=Greek}$",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_lets_through_what_ecma_262_does(pattern: str) -> None:
    grammar = ByteGrammar(checked({"type": "string", "pattern": pattern}))
    found = {text for text in TEXTS if grammar.accepts(text)}
    assert found == {text for text in TEXTS if matches(pattern, text)}
