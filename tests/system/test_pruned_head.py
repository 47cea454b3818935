"""A model built with `-x prune_lm_head=true` says the logits of the last position alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.agent.serve.worker.decoder import BeamSearch, Decoder, RuntimeOptions, open_model
from edgekit.agent.serve.worker.decoder.graph import read_graph
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from tests.building import silent

MAX_LENGTH = 160
# Of the largest logit. The head's product over one position and the one over many are different
# kernels on some CPUs, which add up a row of the hidden size in another order; seen: 4e-7.
TOLERANCE = 16 * float(np.finfo(np.float32).eps)
PROMPT = [int(n) for n in np.random.default_rng(1).integers(3, 400, 60)]


@pytest.fixture(scope="module")
def models(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same weights, with the whole head and with the pruned one."""
    folder = tmp_path_factory.mktemp("pruned")
    whole = BuildRequest(str(qwen2), folder / "whole", gate=None)
    pruned = BuildRequest(str(qwen2), folder / "pruned", gate=None, options=("prune_lm_head=true",))
    return build(whole, silent).out, build(pruned, silent).out


def opened(model: Path, batching: bool) -> tuple[Decoder, BeamSearch | None]:
    decoder, beams = open_model(model, MAX_LENGTH, RuntimeOptions(1), 2, batching)
    assert decoder.limits.batched == batching
    return decoder, beams


def same(expected: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
    """Equal but for rounding."""
    return bool(np.abs(expected - found).max() <= TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("batching", [False, True])
def test_it_computes_what_the_whole_head_does(models: tuple[Path, Path], batching: bool) -> None:
    (whole, _), (pruned, _) = (opened(model, batching) for model in models)
    padding = read_graph(models[1]).padding
    for slices in ([PROMPT], [PROMPT[:17], PROMPT[17:]], [PROMPT, [5, padding]]):
        for decoder in (whole, pruned):
            decoder.truncate(0, 0)
        for tokens in slices:
            assert same(whole.extend(0, tokens), pruned.extend(0, tokens))
        assert [whole.greedy(0) for _ in range(8)] == [pruned.greedy(0) for _ in range(8)]
    whole.extend(1, PROMPT)
    pruned.extend(1, PROMPT)
    expected, stepped = whole.step({0: 7, 1: 8}), pruned.step({0: 7, 1: 8})
    assert sorted(stepped) == [0, 1]
    assert all(same(expected[slot], logits) for slot, logits in stepped.items())


def test_a_beam_search_finds_the_same(models: tuple[Path, Path]) -> None:
    found = []
    for model in models:
        search = opened(model, batching=False)[1]
        assert search is not None
        beams = search(PROMPT, 3, 12, 1.0)
        while beams.step():
            """It lengthens."""
        found.append(beams.best())
    assert found[0] == found[1]
    assert len(found[0]) > 0
