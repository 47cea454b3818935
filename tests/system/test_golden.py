"""Golden prompts of a real model: recorded by the runtime that devices get, the same each time;
healthy under other kernels, failed by name where a part of the model is another.

The figures of more families and instruction sets are in docs/adr/0024.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.bundle.golden import own_runtime, recording
from edgekit.core.golden import MAX_SCORED, Golden, GoldenPrompt, passes
from edgekit.data import cache_root
from edgekit.errors import EdgekitError
from tests.building import run_script
from tests.harness.golden import scored
from tests.models.model_folder import model_folder

pytestmark = pytest.mark.timeout(600)

CONTEXT = 1024
DAMAGED = ("layer_zeroed", "matrix_doubled", "layers_swapped")


def recorded(model: Path, context: int = CONTEXT) -> list[GoldenPrompt]:
    with recording(own_runtime(cache_root(), print), model, context, print) as prompts:
        return prompts()


@pytest.fixture(scope="module")
def golden(smollm2: Path) -> Golden:
    return Golden(recorded(smollm2))


@pytest.fixture(scope="module")
def variants(smollm2: Path, python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("variants")
    run_script(python, "faults/plant_golden.py", smollm2, out, "float_kernels", *DAMAGED)
    return out


def test_two_records_of_a_model_are_equal(smollm2: Path, golden: Golden) -> None:
    assert recorded(smollm2) == golden.prompts
    assert sum(len(prompt.best) for prompt in golden.prompts) == MAX_SCORED


def test_a_healthy_model_passes_whatever_computes_it(
    smollm2: Path, golden: Golden, variants: Path
) -> None:
    changes = []
    ways = ((smollm2, 1, False), (smollm2, 2, True), (variants / "float_kernels", 2, False))
    for model, threads, batching in ways:
        score = scored(model, golden, threads, batching)
        assert passes(golden, score) == ""
        assert score.tokens_per_second > 0
        changes.append(abs(score.nll_change))
    assert max(changes) < golden.nll / 4, changes  # measured: 0.012
    assert changes[-1] > 1e-3, changes  # else `float_kernels` changed nothing


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_model_fails(golden: Golden, variants: Path, kind: str) -> None:
    score = scored(variants / kind, golden)
    assert "golden prompts" in passes(golden, score)
    assert abs(score.nll_change) > 2 * golden.nll, score  # measured: 0.237 to 0.60


def test_another_tokenizer_fails(smollm2: Path, golden: Golden, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    other = model_folder(tmp_path / "other")
    shutil.copy(other / "tokenizer.json", model / "tokenizer.json")
    score = scored(model, golden)
    assert score.misread == len(golden.prompts)
    assert "tokenizer reads 4 of 4 prompts" in passes(golden, score)


def test_a_model_that_this_machine_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match="cannot be run on this machine") as refused:
        recorded(model_folder(tmp_path / "model"), 64)
    assert "--no-golden" in refused.value.next_step
    assert refused.value.why
