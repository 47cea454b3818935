"""Numbers of a schema: what llguidance keeps is enforced, what it does not keep is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.core.chat.constraint.numbers import BOUNDS
from edgekit.core.chat.constraint.schema import SchemaError, checked
from tests.harness.grammar_bytes import ByteGrammar


@pytest.mark.parametrize(
    ("bounds", "right", "wrong"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, [0.1, 0.5], [0, 0.6, -0.1]),
        ({"exclusiveMinimum": 2, "exclusiveMaximum": 2.5}, [2.25], [2, 2.5]),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, [-0.25, -0.5], [0, 0.1]),
        ({"exclusiveMinimum": -2.5, "exclusiveMaximum": -2}, [-2.25], [-2, -2.5]),
        ({"exclusiveMinimum": 1, "maximum": 1.5, "multipleOf": 0.1}, [1.1, 1.5], [1, 1.15]),
        ({"exclusiveMinimum": 10**12, "maximum": 10**12 + 0.5}, [10**12 + 0.25], [10**12]),
        ({"exclusiveMinimum": 0, "maximum": 1}, [1e-4, 1], [0]),  # nothing is nudged here
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 2.5}, [1, 2], [0, 3]),
        (
            {"allOf": [{"exclusiveMinimum": 0}, {"$ref": "#/$defs/half"}],
             "$defs": {"half": {"maximum": 0.5}}},
            [0.1],
            [0],
        ),
    ],
)  # fmt: skip
def test_a_number_is_not_its_exclusive_bound(
    bounds: dict[str, Any], right: list[float], wrong: list[float]
) -> None:
    grammar = ByteGrammar(checked({"type": "number", **bounds}))
    assert [each for each in right if not grammar.accepts(each)] == []
    assert [each for each in wrong if grammar.accepts(each)] == []
    assert not grammar.accepts(-0.0)


def test_an_exclusive_bound_stays_where_no_other_one_is_in_its_unit() -> None:
    far = {"properties": {"a": {"exclusiveMinimum": 0}, "b": {"minimum": 1.5, "maximum": 2}}}
    assert json.loads(checked(far)) == far


@pytest.mark.parametrize(
    "number",
    [0, -1, 0.1, 1 / 3, 1e22, 2.5e-7, 2**53, -(2**53) + 1, 10**18, 2**60, 9007199254740823],
)
def test_a_number_that_is_kept_comes_as_it_is(number: float) -> None:
    for schema in ({"const": number}, {"enum": [[number], number]}):
        assert ByteGrammar(checked(schema)).accepts(number) or isinstance(number, float)
        forced = ByteGrammar(checked({"const": number})).forced()
        assert json.loads(forced) == number


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, 2**63, -(2**63), -(2**63) + 1, 10**30, 0.1 + 0.2, 1e300, 9007199254740823.0],
)
def test_a_number_that_would_become_another_one_is_refused_with_its_place(number: float) -> None:
    """2**53 came for 2**53 + 1; -2**63 ended the model's process, and all answers with it."""
    for schema, at in (
        ({"const": number}, "/const"),
        ({"items": {"enum": [1, {"a": number}]}}, "/items/enum/1/a"),
    ):
        with pytest.raises(
            SchemaError, match=f"the number .* is not served.*, at {at} of"
        ) as found:
            checked(schema)
        assert found.value.valid
    assert checked({"default": number, "examples": [number]}) == "{}", "nobody reads these"


@pytest.mark.parametrize("base", [2**53, 10**17, 10**18 + 679, 2**61])
@pytest.mark.parametrize("key", BOUNDS)
def test_a_large_bound_lets_nothing_through_that_it_should_not(key: str, base: int) -> None:
    up = BOUNDS[key]
    for bound in (sign * (base + step) for sign in (1, -1) for step in (0, 1, 2, 1000)):
        try:
            grammar = ByteGrammar(checked({"type": "integer", key: bound}))
        except ValueError:  # the compiler refuses some
            continue
        wrong = [bound - 2 * up, bound - up, *([bound] if key.startswith("ex") else [])]
        assert [each for each in wrong if grammar.accepts(each)] == []


@pytest.mark.parametrize(
    ("least", "most"),
    [(-(2**63), 2**63 - 1), (0, 2**64 - 1), (-(2**53) + 1, 2**53 - 1), (-1e300, 1e300)],
)
def test_the_bounds_of_a_type_bound_nothing_that_is_used(least: float, most: float) -> None:
    grammar = ByteGrammar(checked({"type": "integer", "minimum": least, "maximum": most}))
    assert [each for each in (-5, 0, 5, 2**53 - 1) if grammar.accepts(each)] == [
        each for each in (-5, 0, 5, 2**53 - 1) if each >= least
    ]


@pytest.mark.parametrize(
    "bound", [{"minimum": 2**63}, {"exclusiveMaximum": -(2**62) - 1}, {"maximum": -1e19}]
)
def test_a_bound_beyond_what_is_kept_is_refused(bound: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="is not served"):
        checked({"type": "integer", **bound})
