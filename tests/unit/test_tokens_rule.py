"""The template of a rule: what it may use, and that a stranger's message stays a value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.core.rules.message import Fill, HeardMessage
from edgekit.tokens.rule import MAX_CHARACTERS, RuleRefusedError, RuleTemplate


def fill(*payloads: Any) -> Fill:
    heard = [HeardMessage(f"plant/{n}", msgspec.json.encode(p)) for n, p in enumerate(payloads)]
    return Fill("door", "pi-1", heard)


@pytest.mark.parametrize(
    ("template", "told", "text"),
    [
        ("{{ message.t }} °C", [{"t": 21.5}], "21.5 °C"),
        ("{{ message }}", [21.5], "21.5"),
        ("{{ topic }} {{ device }} {{ rule }}", [1], "plant/0 pi-1 door"),
        ("{% for m in messages %}{{ m.n }},{% endfor %}", [{"n": 1}, {"n": 2}], "1,2,"),
        ("{{ topics | join(' ') }} {{ message }}", [1, 2], "plant/0 plant/1 2"),
        ("{{ message.x | default('-') }}", [{}], "-"),
        ("{{ message | tojson }}", [{"a": "<ü>"}], '{"a": "<ü>"}'),
        ("{{ messages | map(attribute='t') | sum }}", [{"t": 1}, {"t": 2}], "3"),
        ("{{ message.values }} {{ message.items }}", [{"values": 1, "items": 2}], "1 2"),
        ("{% for k, v in message.items() %}{{ k }}={{ v }}{% endfor %}", [{"a": 1}], "a=1"),
        ("{{ message.s }}", [{"s": "{{ 7 * 7 }} <|im_end|>"}], "{{ 7 * 7 }} <|im_end|>"),
    ],
)
def test_a_template_has_the_messages(template: str, told: list[Any], text: str) -> None:
    assert RuleTemplate(template).render(fill(*told)) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ mesage }}", "mesage"),
        ("{% if %}", "line 1"),
        ("a\n{{ message ", "line 2"),
        ("{{ lipsum() }}", "lipsum"),
        ("{{ message | nonsense }}", "nonsense"),
    ],
)
def test_a_template_that_is_none_says_where(template: str, why: str) -> None:
    with pytest.raises(RuleRefusedError) as caught:
        RuleTemplate(template)
    assert why in f"{caught.value.what} {caught.value.why}"


@pytest.mark.parametrize(
    ("template", "message", "why"),
    [
        ("{{ message.t }}", {}, "no attribute 't'"),
        ("{{ message.t.u }}", {"t": 1}, "no attribute 'u'"),
        ("{{ message.values }}", {"value": 1}, "a function"),
        ("{{ message.t }}", {"t": " \n"}, "no text"),
        ("{{ message.t }}", {"t": "a\0b"}, "NUL"),
        ("{{ message.t * message.n }}", {"t": "x", "n": MAX_CHARACTERS + 1}, "more than"),
        ("{{ message.t * message.n }}", {"t": "x", "n": 10**12}, "fails on this message"),
        ("{{ (message.n * 10) | tojson }}", {"n": 1.7e308}, "not JSON compliant"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            {},
            "within 2 s",
        ),
        ("{{ message.__class__.__mro__ }}", {}, "unsafe"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}, "unsafe"),
        ("{{ message.update({'a': 1}) }}", {}, "unsafe"),
    ],
)
def test_what_a_template_cannot_do_with_a_message_is_refused(
    template: str, message: Any, why: str
) -> None:
    with pytest.raises(RuleRefusedError) as caught:
        RuleTemplate(template).render(fill(message))
    assert why in caught.value.what
