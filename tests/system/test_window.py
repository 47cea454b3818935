"""A sliding window of 16 tokens on a real graph: what has left it cannot be gone back to."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.agent.serve.worker.decoder import Decoder, RuntimeOptions, open_model
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.tools.host import HostToolchain
from tests.building import run_script, silent
from tests.matrix.families import FAMILIES, WINDOW

MAX_LENGTH = 160


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("window")
    family = next(f for f in FAMILIES if f.name == "MistralForCausalLM (sliding window)")
    listed = folder / "listed.json"
    wanted = msgspec.to_builtins(family) | {
        "architecture": family.architecture,
        "out": str(folder / "source"),
    }
    listed.write_text(json.dumps([wanted]))
    python = HostToolchain().ready(silent).python
    run_script(python, "models/make_tiny_model.py", "--many", listed)
    request = BuildRequest(
        model=str(folder / "source"), out=folder / "model", gate=None, recipe="plain"
    )
    return build(request, silent).out


def tokens(count: int) -> list[int]:
    return [int(n) for n in np.random.default_rng(count).integers(3, 500, count)]


def opened(model: Path, max_length: int = MAX_LENGTH) -> Decoder:
    return open_model(model, max_length, RuntimeOptions(1), slots=2)[0]


def test_a_slot_is_kept_whole_or_not_at_all(model: Path) -> None:
    assert not opened(model).limits.can_truncate
    assert opened(model, WINDOW).limits.can_truncate


def test_what_follows_an_answer_is_computed_as_if_it_had_been_there_from_the_start(
    model: Path,
) -> None:
    decoder = opened(model)
    decoder.extend(0, tokens(60))
    answer = [decoder.greedy(0) for _ in range(5)]
    more = tokens(7)
    continued = decoder.extend(0, more).copy()
    decoder.extend(1, tokens(60))
    for token in answer:
        decoder.step({1: token})
    assert (continued == decoder.extend(1, more)).all()


def test_an_emptied_slot_is_a_new_one(model: Path) -> None:
    decoder = opened(model)
    decoder.extend(0, tokens(100))
    decoder.truncate(0, 0)
    assert decoder.length(0) == 0
    again = decoder.extend(0, tokens(40)).copy()
    assert (again == decoder.extend(1, tokens(40))).all()
