"""The body of a prompt: what is served has its bounds, what is not is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.core.chat import Sampling, parse_body, sampling_of
from edgekit.core.wire import ProtocolError

MESSAGES = [{"role": "user", "content": "Hi"}]


def parse(**fields: Any) -> Sampling:
    """The sampling that a body asks for, over a bundle that samples."""
    body = json.dumps({"messages": MESSAGES, **fields}).encode()
    return sampling_of(parse_body(body), {"temperature": 0.7, "top_k": 40})


def test_every_field_of_sampling_reaches_the_sampler_over_the_bundles_defaults() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.05,
        "presence_penalty": -0.5,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
        "seed": 7,
    }
    assert parse(**fields, logit_bias={"12": -100, "0": 2.5}) == Sampling(
        **fields, logit_bias={12: -100.0, 0: 2.5}
    )
    assert parse() == Sampling(temperature=0.7, top_k=40)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"repetition_penalty": 1.1},
        {"temperature": 0.1},
    ],
)
def test_the_runtime_chooses_by_itself_only_what_nothing_changes(fields: dict[str, Any]) -> None:
    assert parse(temperature=0, min_p=0.1, top_p=0.5).plain_greedy
    assert not parse(**{"temperature": 0, **fields}).plain_greedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", 1.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {str(token): 0 for token in range(1025)}),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_field(field: str, value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**{field: value})
    assert caught.value.code == "invalid_request"
    assert caught.value.param.partition("[")[0] == field


@pytest.mark.parametrize(
    "field",
    [
        *("n", "logprobs", "top_logprobs", "tools", "tool_choice", "response_format"),
        *("stream_options", "modalities", "prediction", "typical_p", "best_of", "echo", "user"),
    ],
)
def test_a_field_that_is_not_served_is_refused_by_name(field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(**{field: None})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", field)
