"""Beam search of the runtime and its fake: what both promise, and that the real one searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.decoder import (
    BeamSearch,
    Decoder,
    RuntimeOptions,
    open_model,
)
from edgekit.tokens.chat import open_tokenizer
from tests.fakes.decoder import EOS, FakeBeams, FakeTokenizer

Opened = tuple[Decoder, Tokenizer, BeamSearch]
QUESTION = [("user", "What is the capital of France?")]


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Opened:
    decoder, search = open_model(smollm2, 256, RuntimeOptions(threads=2), slots=1)
    assert search is not None
    return decoder, open_tokenizer(smollm2), search


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_it_ends_by_itself_without_the_token_that_ends_an_answer(
    kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "real":
        _, tokenizer, search = request.getfixturevalue("real")
    else:
        tokenizer = FakeTokenizer()
        search = FakeBeams([*tokenizer.encode("It is Paris."), EOS])
    prompt = tokenizer.encode_chat(QUESTION)
    beams = search(prompt, 3, 60, 1.0)
    steps = 1
    while beams.step():
        steps += 1
        assert steps < 60
    answer = beams.best()
    assert 0 < len(answer) <= steps
    assert not tokenizer.eos_token_ids & set(answer)
    stream = tokenizer.stream()
    assert "Paris" in "".join(stream.decode(token) for token in answer)
    short = search(prompt, 2, 3, 1.0)
    while short.step():
        pass
    assert len(short.best()) == 3


def test_longer_prompts_have_room_for_fewer_beams(real: Opened) -> None:
    search = real[2]
    assert search.room(10, 10) > search.room(10_000, 10) > search.room(1_000_000_000, 10) == 0


def likelihood(decoder: Decoder, prompt: list[int], answer: list[int]) -> float:
    """The log-probability of an answer."""
    decoder.truncate(0, 0)
    logits = decoder.extend(0, prompt)
    total = 0.0
    for token in answer:
        scores = logits.astype(np.float64)
        total += float(scores[token] - scores.max() - np.log(np.exp(scores - scores.max()).sum()))
        logits = decoder.step({0: token})[0]
    return total


def test_the_runtimes_search_finds_a_likelier_answer_than_greedy(real: Opened) -> None:
    decoder, tokenizer, search = real
    prompt = tokenizer.encode_chat([("user", "Tell me about the sea.")])
    decoder.truncate(0, 0)
    decoder.extend(0, prompt)
    greedy = [decoder.greedy(0) for _ in range(16)]
    beams = search(prompt, 4, 16, 1.0)
    while beams.step():
        pass
    found = beams.best()
    assert len(found) == len(greedy) == 16
    assert likelihood(decoder, prompt, found) > likelihood(decoder, prompt, greedy)
