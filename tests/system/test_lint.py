"""The lint on models of the real builder: sound models pass, planted defects are named."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.builder.lint.check import check_folder, refuse_unsound
from edgekit.builder.lint.finding import Finding
from edgekit.builder.request.asked import Asked, asked_for
from edgekit.builder.tools.host import HostRunner, HostToolchain
from edgekit.errors import VerificationError
from tests.building import run_script, silent

MIXED = "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"

# what the tiny models are built as: name -> precision, provider, options
RECIPES: dict[str, tuple[str, ...]] = {
    "plain": ("int4", "cpu"),
    "again": ("int4", "cpu"),
    "k_quant": ("int4", "cpu", "algo_config=k_quant"),
    "k_quant_mixed": ("int4", "cpu", "algo_config=k_quant_mixed"),
    "mixed": ("int4", "cpu", MIXED),
    "rtn": ("int4", "cpu", "algo_config=rtn"),
    "rtn_last": ("int4", "cpu", "algo_config=rtn_last"),
    "asymmetric": ("int4", "cpu", "is_symmetric=false"),
    "block64": ("int4", "cpu", "block_size=64"),
    "level1": ("int4", "cpu", "accuracy_level=1"),
    "int8": ("int8", "cpu"),
    "int8_k_quant": ("int8", "cpu", "algo_config=k_quant"),
    "fp16": ("fp16", "cpu"),
    "fp32": ("fp32", "cpu"),
    "qdq": ("int4", "cpu", "use_qdq=true"),
    "qdq_k_quant": ("int4", "cpu", "use_qdq=true", "algo_config=k_quant"),
    "head_excluded": ("int4", "cpu", "nodes_to_exclude=/lm_head/MatMul"),
    "embedding4": ("int4", "cpu", "op_types_to_quantize=MatMul/Gather"),
    "one_layer": ("int4", "cpu", "num_hidden_layers=1"),
    "cuda": ("int4", "cuda"),
    "dml": ("int4", "dml"),
    "webgpu": ("int4", "webgpu"),
}
TIED = (  # gemma's embedding is its head
    "plain", "k_quant", "k_quant_mixed", "mixed", "rtn", "asymmetric", "int8", "fp16", "fp32",
)  # fmt: skip
# what the builder itself gets wrong (onnxruntime-genai 0.18.0)
UNSOUND = {
    ("qwen2", "qdq_k_quant"): "option-ignored",  # only its default method makes QDQ
    ("gemma", "asymmetric"): "graph-broken",  # the tied embedding gets no scales
    ("gemma", "mixed"): "graph-broken",  # nor do those of an int8 head
}

pytestmark = pytest.mark.timeout(600)


@dataclass
class Bench:
    """The toolchain, and the folders of tiny sources and of their built models."""

    python: Path
    folder: Path

    def run(self, script: str, *arguments: str | Path) -> None:
        run_script(self.python, script, *arguments)

    def built(self, family: str, recipe: str) -> Path:
        return self.folder / f"{family}-built" / recipe

    def asked(self, family: str, recipe: str) -> Asked:
        precision, provider, *options = RECIPES[recipe]
        config = json.loads((self.folder / family / "config.json").read_text())
        pairs = dict(option.split("=", 1) for option in options)
        return asked_for(precision, provider, pairs, config, has_template=True)

    def lint(
        self, model: Path, asked: Asked, work: Path, source: Path | None = None
    ) -> tuple[Finding, ...]:
        return check_folder(model, asked, HostRunner(self.python), work, silent, source)


def refused(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.name for finding in findings if finding.severity == "refuse"}


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(HostToolchain().ready(silent).python, tmp_path_factory.mktemp("lint"))
    for family, recipes in (("qwen2", tuple(RECIPES)), ("gemma", TIED)):
        made.run("models/make_tiny_model.py", family, made.folder / family)
        ways = ["|".join((name, *RECIPES[name])) for name in recipes]
        made.run("models/build_recipes.py", made.folder / family, made.built(family, ""), *ways)
    return made


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
    assert refused(bench.lint(model, asked, tmp_path)) == ({name} if name else set())
