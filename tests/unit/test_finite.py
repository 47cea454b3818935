"""What JSON does not have is refused where a program or a person writes a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.client.requester import Requester
from edgekit.core import finite
from edgekit.core.rules.check import request_of
from edgekit.core.rules.rule import Rule
from edgekit.errors import UsageError

BODIES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"response_format": {"schema": {"const": [1, float("-inf")]}}}, "schema.const[1] is -inf"),
]


def test_json_is_written_as_ever() -> None:
    value = {"a": [1.5, None, (10**30, True)], "b": {"c": "é"}}
    assert json.loads(finite.encode(value)) == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        *BODIES,
        ({"messages": [{"content": b"x"}]}, "messages[0].content has bytes"),
        ({"messages": [{"content": "\ud83d"}]}, "surrogates"),
    ],
)
def test_a_prompt_that_is_no_json_is_not_sent(body: dict[str, Any], why: str) -> None:
    """NaN became null: the device took its own temperature, and nobody knew."""
    with pytest.raises(UsageError) as refused:
        next(Requester.ask(object.__new__(Requester), "pi-1", body))
    assert why in refused.value.why


@pytest.mark.parametrize(("body", "why"), BODIES[:1])
def test_a_rule_with_such_a_number_is_refused_by_its_name(body: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match="rule hot makes a prompt") as refused:
        request_of("hot", Rule(topic_filter="plant/1", prompt="?", body=body))
    assert why in refused.value.why
