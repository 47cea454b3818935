"""Pack, push and ask about a picture: a tiny SmolVLM on a real device and broker.

What the device answers is what transformers' own class answers to the pixels that were sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.test_vision import (
    CASES,
    QUESTION,
    Site,
    cached,
    device_with,
    text_of,
    torch_answers,
    user,
    whole,
)

pytestmark = pytest.mark.timeout(600)
CROPS = 4


@pytest.fixture(scope="module")
def site(smolvlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with device_with(smolvlm / "model", CROPS, tmp_path_factory) as made:
        yield made


def test_the_answers_are_those_of_transformers(
    site: Site, smolvlm: Path, python: str, tmp_path: Path
) -> None:
    found = torch_answers(site, smolvlm / "source", python, tmp_path, crops=CROPS, family="smolvlm")
    wanted = {name: text_of(site, each.tokens) for name, each in found.items()}
    assert len(set(wanted.values())) == len(CASES), wanted
    for name, text in wanted.items():
        final = site.ask({"messages": [user(QUESTION)]}, site.sent[name])
        assert whole(final.text) == text, name
        again = site.ask({"messages": [user(QUESTION)]}, site.sent[name])
        assert cached(again) >= final.completion["usage"]["prompt_tokens"] - 2


def test_the_card_says_what_a_picture_costs_here(site: Site) -> None:
    images = json.loads(site.project.edgekit("devices", "--json"))["demo"]["card"]["images"]
    assert (images["crops"], images["side"]) == (CROPS, 672)
    assert 5 * 16 < images["tokens"] < 5 * 16 + 20
