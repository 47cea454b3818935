"""Sliding windows on real graphs.

What has left a window of 16 tokens cannot be gone back to. A window of 4096 tokens, as Mistral 7B
and Gemma 2 have it, is longer than any text here: the runtime wants a cache that holds all of it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.serve.worker.decoder import Decoder, RuntimeOptions, open_model
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.tools.process import INSIDE
from tests.building import TESTS, environment, silent
from tests.matrix.families import WINDOW
from tests.matrix.tiny import family_model

MAX_LENGTH = 160


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("window")
    return family_model(folder, "MistralForCausalLM (sliding window)", recipe="plain")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    name = "MistralForCausalLM (sliding window of 4096)"
    return family_model(folder, name, precision="fp32", context=512)


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


@pytest.mark.parametrize("batching", [False, True])
def test_a_context_shorter_than_the_window_is_answered(long: Path, batching: bool) -> None:
    decoder, beams = open_model(long, MAX_LENGTH, RuntimeOptions(1), 2, batching)
    assert (decoder.limits.max_length, decoder.limits.can_truncate) == (MAX_LENGTH, True)
    assert beams is None  # with beams the runtime keeps no window
    whole = decoder.extend(0, tokens(60)).copy()
    decoder.extend(1, tokens(60)[:40])
    assert np.allclose(whole, decoder.extend(1, tokens(60)[40:]), atol=1e-4)
    answer = [decoder.greedy(0) for _ in range(5)]
    decoder.truncate(0, 60)
    for token in answer:
        decoder.step({0: token})
    assert decoder.length(0) == 65


def test_the_default_length_holds_the_window_too(long: Path) -> None:
    """It was built with --context 512; a runtime that is told nothing else takes this length."""
    config = json.loads((long / "genai_config.json").read_text())
    assert config["search"]["max_length"] == 4096


def test_the_gate_reads_a_text_shorter_than_the_window(long: Path) -> None:
    """With the class by which the gate's scripts run a model, in the toolchain's interpreter."""
    done = subprocess.run(
        [HostToolchain().ready(silent).python, TESTS / "harness/gate_logits.py", INSIDE, long],
        capture_output=True, text=True, env=environment(ORT_DISABLE_TELEMETRY="1"), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["24", "4"]
