"""Which tokens end an answer of a model from a GGUF file."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from edgekit.builder.tools.process import INSIDE

sys.path.append(str(INSIDE))  # the scripts find each other so

from edgekit.builder.inside.unpack.tokens import Words, ends, text_ends

LLAMA_3 = {
    "tokenizer.ggml.tokens": ["a", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
    "tokenizer.ggml.token_type": [1, 3, 3, 3],
    "tokenizer.ggml.eos_token_id": 1,
}
TEMPLATE = "{{ '<|eom_id|>' if calls else '<|eot_id|>' }}"


@pytest.mark.parametrize(
    ("change", "template", "found"),
    [
        ({}, TEMPLATE, [1, 2, 3]),
        ({}, "{{ '<|eot_id|>' }}", [1, 3]),
        ({"tokenizer.ggml.eot_token_id": 3}, TEMPLATE, [1, 2]),
        ({"tokenizer.ggml.eom_token_id": 2}, TEMPLATE, [1, 3]),
        ({"tokenizer.ggml.token_type": [1, 3, 1, 3]}, TEMPLATE, [1, 3]),
        ({"tokenizer.ggml.bos_token_id": 2}, TEMPLATE, [1, 3]),
    ],
)
def test_ends_of_turns_that_the_header_does_not_name(
    change: dict[str, Any], template: str, found: list[int]
) -> None:
    assert ends(Words(LLAMA_3 | change), {"default": template}, [1]) == found


@pytest.mark.parametrize(
    ("change", "given", "found"),
    [
        ({}, [3], [1]),
        ({}, [1, 3], []),
        ({"tokenizer.ggml.unknown_token_id": 1}, [3], []),
        ({"tokenizer.ggml.token_type": [1, 1, 3, 3]}, [3], []),
    ],
)
def test_the_end_of_a_text_ends_an_answer(
    change: dict[str, Any], given: list[int], found: list[int]
) -> None:
    assert text_ends(Words(LLAMA_3 | change), given) == found
