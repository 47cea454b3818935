"""Tiny models in many recipes, and what the lint says of them; for tests and `tests.show`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.builder.lint.check import check_folder
from edgekit.builder.lint.finding import Finding
from edgekit.builder.request.asked import Asked, asked_for
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.run import build
from edgekit.builder.source.find import find
from edgekit.builder.source.gguf import dequantised
from edgekit.builder.source.samples import smollm2_gguf
from edgekit.builder.tools.host import HostRunner, HostToolchain
from tests.building import run_script, silent
from tests.matrix.shapes import FAMILIES

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

# tiny models of other families, built as `edgekit build --recipe plain` does
OTHERS = {
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM (LongRoPE)",
    "biased": "LlamaForCausalLM (tied, biases)",
}
TOGETHER = (
    "window-everywhere", "scale-larger", "caches-swapped", "presents-crossed", "last-rotary-rows",
    "one-rotary-sine", "one-block-of-scales", "two-rows-of-the-head", "one-norm-value",
    "temperature", "penalty", "min-length", "second-end", "merge-gone", "added-token-gone",
    "words-exchanged", "context-quadrupled",
)  # fmt: skip
"""Faults of `plant_source.py` that were found in the field, on a real model."""


def dequantised_smollm2() -> Path:
    """The Hugging Face folder that SmolLM2 is built from."""
    found = find(str(smollm2_gguf()), None, None, silent)
    return dequantised(found, HostToolchain(), silent)


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


def make_bench(python: Path, folder: Path) -> Bench:
    """Make the sources, and build them in every recipe."""
    made = Bench(python, folder)
    for family, recipes in (("qwen2", tuple(RECIPES)), ("gemma", TIED)):
        made.run("models/make_tiny_model.py", family, made.folder / family)
        ways = ["|".join((name, *RECIPES[name])) for name in recipes]
        made.run("models/build_recipes.py", made.folder / family, made.built(family, ""), *ways)
    _make_others(made)
    return made


def _make_others(bench: Bench) -> None:
    listed = bench.folder / "families.json"
    wanted = [
        msgspec.to_builtins(family)
        | {"architecture": family.architecture, "out": str(bench.folder / name)}
        for name, full in OTHERS.items()
        for family in FAMILIES
        if family.name == full
    ]
    listed.write_bytes(msgspec.json.encode(wanted))
    bench.run("models/make_tiny_model.py", "--many", listed)
    for name in OTHERS:
        source, out = bench.folder / name, bench.built(name, "plain")
        build(BuildRequest(str(source), out, gate=None, recipe="plain"), silent)
