"""The lint on models of the real builder: sound models pass, planted defects are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekit.builder.lint.check import compare, refuse_unsound
from edgekit.builder.lint.source import unlike_source
from edgekit.builder.request.asked import asked_for
from edgekit.builder.tools.host import HostRunner, HostToolchain
from edgekit.errors import VerificationError
from tests.building import silent
from tests.faults.plant_source import FAULTS
from tests.linted import (
    RECIPES,
    TIED,
    TOGETHER,
    UNSOUND,
    Bench,
    dequantised_smollm2,
    make_bench,
    refused,
)

pytestmark = pytest.mark.timeout(600)


SEARCH = ("temperature", "repetition_penalty", "min_length")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(HostToolchain().ready(silent).python, tmp_path_factory.mktemp("lint"))


@pytest.mark.parametrize(
    ("family", "recipe"), [*(("qwen2", name) for name in RECIPES), *(("gemma", r) for r in TIED)]
)
def test_a_build_is_what_was_asked_for(
    bench: Bench, family: str, recipe: str, tmp_path: Path
) -> None:
    source = bench.folder / family
    findings = bench.lint(
        bench.built(family, recipe), bench.asked(family, recipe), tmp_path, source
    )
    wanted = UNSOUND.get((family, recipe))
    assert refused(findings) == ({wanted} if wanted else set()), findings
    assert "not-compared" not in {finding.name for finding in findings}, findings


def test_one_process_builds_the_same_bytes_twice(bench: Bench) -> None:
    one, other = bench.built("qwen2", "plain"), bench.built("qwen2", "again")
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    ("asked", "built", "names"),
    [
        ("k_quant_mixed", "plain", {"option-ignored", "zero-points"}),
        ("k_quant_mixed", "k_quant", {"option-ignored"}),
        ("mixed", "plain", {"option-ignored"}),
        ("k_quant", "plain", {"option-ignored", "zero-points"}),
        ("rtn", "plain", {"option-ignored"}),
        ("plain", "rtn", {"option-ignored"}),
        ("plain", "mixed", {"bits"}),
        ("block64", "plain", {"block-size"}),
        ("asymmetric", "plain", {"zero-points"}),
        ("plain", "asymmetric", {"zero-points"}),
        ("level1", "plain", {"accuracy-level"}),
        ("int8", "plain", {"bits"}),
        ("plain", "int8", {"bits"}),
        ("plain", "fp32", {"bits"}),
        ("fp16", "fp32", {"bits", "kv-dtype"}),
        ("fp32", "plain", {"bits"}),
        ("qdq", "plain", {"option-ignored"}),
        ("plain", "head_excluded", {"float-matrix"}),
        ("head_excluded", "plain", {"option-ignored"}),
        ("embedding4", "plain", {"option-ignored"}),
        ("one_layer", "plain", {"layers"}),
        ("plain", "one_layer", {"layers"}),
        ("cuda", "dml", {"provider"}),
        ("plain", "webgpu", {"provider", "kv-dtype"}),
    ],
)
def test_a_build_that_is_not_what_was_asked_for_is_named(
    bench: Bench, asked: str, built: str, names: set[str], tmp_path: Path
) -> None:
    findings = bench.lint(bench.built("qwen2", built), bench.asked("qwen2", asked), tmp_path)
    assert refused(findings) == names, findings


@pytest.mark.parametrize(
    ("defect", "name"),
    [
        ("block-size", "block-size"),
        ("one-block-size", "block-size"),
        ("accuracy-level", "accuracy-level"),
        ("truncated", "data-truncated"),
        ("no-data", "file-missing"),
        ("appended", "data-orphans"),
        ("hole", "data-orphans"),
        ("hole-at-the-front", "data-orphans"),
        ("second-data-file", "data-orphans"),
        ("overlap", "data-overlap"),
        ("length", "data-length"),
        ("outside", "data-outside"),
        ("link-outside", "data-outside"),
        ("half-graph", "graph-unreadable"),
        ("no-graph", "file-missing"),
        ("lost-weight", "graph-broken"),
        ("half-cache", "kv-dtype"),
        ("nan-scale", "scales-not-finite"),
        ("infinite-norm", "weights-not-finite"),
        ("zero-layer", "zero-weights"),
        ("zero-bytes", "zero-weights"),
        ("zero-scales", "zero-weights"),
        ("max-length", "max-length"),
        ("eos-outside", "token-ids"),
        ("eos-unknown", "token-ids"),
        ("one-layer-less", "layers"),
        ("larger-vocabulary", "vocabulary"),
        ("no-config", "file-missing"),
        ("broken-config", "file-unreadable"),
        ("tokenizer-words", "vocabulary"),
        ("tokenizer-added", "vocabulary"),
        ("no-tokenizer", "file-missing"),
        ("no-template", "chat-template-missing"),
    ],
)
def test_a_planted_defect_is_refused_by_name(
    bench: Bench, defect: str, name: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(bench.built("qwen2", "plain"), model)
    bench.run("faults/plant_structure.py", model, defect)
    findings = bench.lint(model, bench.asked("qwen2", "plain"), tmp_path)
    assert name in refused(findings), findings
    with pytest.raises(VerificationError, match="not what was asked for") as caught:
        refuse_unsound(findings)
    assert name in caught.value.why


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_from_the_source_is_refused_by_name(
    bench: Bench, fault: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    name, _, family, recipe = FAULTS[fault]
    shutil.copytree(bench.built(family, recipe), model)
    bench.run("faults/plant_source.py", model, fault)
    runner, source = HostRunner(bench.python), bench.folder / family
    findings = tuple(unlike_source(compare(model, source, runner, tmp_path, silent)))
    assert name in refused(findings), findings
    with pytest.raises(VerificationError) as caught:
        refuse_unsound(findings)
    assert name in caught.value.why


def test_smollm2_with_every_fault_of_the_field(bench: Bench, smollm2: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    bench.run("faults/plant_source.py", model, *TOGETHER)
    runner = HostRunner(bench.python)
    compared = compare(model, dequantised_smollm2(), runner, tmp_path, silent)
    findings = {f.name: f for f in unlike_source(compared)}
    assert set(findings) == {FAULTS[fault].finding for fault in TOGETHER}
    places = {one.where for one in compared.differences}
    layer = "/model/layers.{}/attn/GroupQueryAttention"
    settings = ("local_window_size", "scale")
    wanted = {f"{layer.format(0)} {name}" for name in settings}
    wanted |= {f"genai_config.json search.{name}" for name in SEARCH}
    assert wanted <= places, places
    assert compared.counts["attention-settings"] == 60
    assert compared.counts["cache-wiring"] == 64
    assert compared.counts["search-settings"] == 3


# the defects that a small model could hide, on a real one
@pytest.mark.parametrize(
    ("defect", "name"),
    [(None, None), ("zero-bytes", "zero-weights"), ("truncated", "data-truncated")],
)
def test_smollm2(
    bench: Bench, smollm2: Path, defect: str | None, name: str | None, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(smollm2, model)
    if defect:
        bench.run("faults/plant_structure.py", model, defect)
    config = {"num_hidden_layers": 30, "vocab_size": 49152}
    asked = asked_for(
        "int4", "cpu", {"algo_config": "k_quant"}, config, context=8192, has_template=True
    )
    findings = bench.lint(model, asked, tmp_path, None if defect else dequantised_smollm2())
    assert refused(findings) == ({name} if name else set())
    assert defect or not findings, "nothing was left out"
