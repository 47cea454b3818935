"""The check of a checkpoint's tensors against transformers, for every family of the matrix."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.source.soundness import unsound
from edgekit.builder.support.families import expected_tensors, is_tied
from edgekit.builder.support.leftovers import explained
from edgekit.builder.tools.process import INSIDE
from tests.building import edgekit_build, run_script
from tests.checkpoints import write_weights
from tests.matrix.shapes import FAMILIES

pytestmark = pytest.mark.timeout(300)

# settings that change a family's tensors
VARIANTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"attention_bias": True, "mlp_bias": True, "head_dim": 64},
    "MistralForCausalLM": {"head_dim": 64},
    "Qwen2ForCausalLM": {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": {"attention_bias": True},
    "GemmaForCausalLM": {"attention_bias": True, "tie_word_embeddings": False},
    "Gemma2ForCausalLM": {"attention_bias": True},
    "Gemma3ForCausalLM": {"attention_bias": True},
    "Phi3ForCausalLM": {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "GraniteForCausalLM": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "SmolLM3ForCausalLM (RoPE in every layer)": {"attention_bias": True, "mlp_bias": True},
    "Ernie4_5ForCausalLM": {"use_bias": True, "tie_word_embeddings": True},
    "HunYuanDenseV1ForCausalLM": {"attention_bias": True, "head_dim": 64},
    "NemotronForCausalLM": {"attention_bias": True, "mlp_bias": True, "head_dim": 64},
}
# the locked builder makes none of the first two, which take long; transformers has not the third;
# the others' lists are their text part's, a Llama's (test_smolvlm_build has the part that sees)
LEFT_OUT = (
    *("Gemma4", "GraniteMoeHybridForCausalLM (", "Phi3VForCausalLM"),
    *("SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration"),
)


def families() -> dict[str, dict[str, Any]]:
    found = {}
    for family in FAMILIES:
        if not family.config or family.name.startswith(LEFT_OUT) or "YaRN" in family.name:
            continue
        one = {
            "architecture": family.architecture,
            "config": family.config,
            "values": family.values,
            "leftovers": explained({"architectures": [family.architecture]}),
        }
        found[family.name] = one
        if family.name in VARIANTS:
            values = family.values | VARIANTS[family.name]
            found[f"{family.name}, changed"] = one | {"values": values}
    return found


@pytest.fixture(scope="module")
def oracle(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("oracle")
    (folder / "families.json").write_text(json.dumps(families()))
    run_script(
        python, "models/checkpoint_oracle.py", INSIDE, folder / "families.json",
        folder / "results.json",
    )  # fmt: skip
    return dict(json.loads((folder / "results.json").read_text()))


def test_the_lists_of_tensors_are_those_of_transformers(oracle: dict[str, Any]) -> None:
    compared = Counter[str]()
    for name, found in oracle.items():
        config = found["config"]
        expected = expected_tensors(config)
        if expected is None:
            continue
        given = {key.removeprefix("model."): tuple(s) for key, s in found["tensors"].items()}
        assert expected == given, name
        compared[config["architectures"][0]] += 1
    assert len(compared) == 14
    assert min(compared.values()) >= 1


def test_what_config_json_leaves_out_is_as_transformers_has_it(oracle: dict[str, Any]) -> None:
    for name, found in oracle.items():
        names = {"architectures": found["config"]["architectures"]}
        assert is_tied(names) == found["alone"], name
        for whole, inner, tied in found["ties"]:
            told = {
                **names, "tie_word_embeddings": whole, "text_config": {"tie_word_embeddings": inner}
            }  # fmt: skip
            assert is_tied(told) == tied, (name, whole, inner)
    assert sum(bool(found["ties"]) for found in oracle.values()) >= 7


def test_every_tensor_that_lacks_or_is_too_much_is_refused_by_name(oracle: dict[str, Any]) -> None:
    """By transformers' report for every family; and by the headers where the family is listed."""
    seen = Counter[str]()
    for name, found in oracle.items():
        config, whole = found["config"], {k: tuple(s) for k, s in found["tensors"].items()}
        listed = expected_tensors(config) is not None
        for case, said in found["said"].items():
            kind, _, tensor = case.partition(" ")
            shapes = dict(whole)
            if kind == "lacks":
                del shapes[tensor]
            elif kind == "shape":
                shapes[tensor] = (whole[tensor][0] + 1,)
            elif kind == "extra":
                shapes[tensor] = (3,)
            refusal = unsound(config, shapes, {})
            if kind == "whole" or tensor.endswith("inv_freq"):
                assert said == "", (name, case)
                assert refusal is None, (name, case)
            else:
                assert tensor in said, (name, case)
                if listed:
                    assert refusal is not None, (name, case)
                    assert tensor in refusal.what, (name, case)
            seen[kind] += 1
    assert seen["lacks"] > 400
    assert seen["shape"] > 100


def test_a_build_refuses_what_only_transformers_knows(python: str, tmp_path: Path) -> None:
    lfm2 = next(family for family in FAMILIES if family.name == "Lfm2ForCausalLM")
    source = tmp_path / "lfm2"
    wish = {
        "out": str(source), "architecture": lfm2.architecture, "config": lfm2.config,
        "values": lfm2.values, "edit": {},
    }  # fmt: skip
    (tmp_path / "many.json").write_text(json.dumps([wish]))
    run_script(python, "models/make_tiny_model.py", "--many", tmp_path / "many.json")
    assert source.is_dir()
    weights = source / "model.safetensors"
    header = json.loads(
        weights.read_bytes()[8 : 8 + int.from_bytes(weights.read_bytes()[:8], "little")]
    )
    shapes = {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
    lost = "model.layers.1.feed_forward.w1.weight"
    del shapes[lost]
    write_weights(weights, shapes, "F32")
    done = edgekit_build("--host", "--no-gate", "-m", source, "-o", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert f"the checkpoint lacks {lost}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapter_with_a_tensor_too_few_is_refused(python: str, tmp_path: Path) -> None:
    """PEFT would leave the rest as it was initialised, and only warn."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from types import SimpleNamespace\n"
        "from common.loading import strict_adapters\n"
        "from common.reporting import ScriptError\n"
        "import peft\n"
        "for missing, extra in (['a.lora_A'], []), ([], ['b.lora_A']), ([], []):\n"
        "    report = SimpleNamespace(missing_keys=missing, unexpected_keys=extra)\n"
        "    peft.PeftModel.load_adapter = lambda *_: report\n"
        "    with strict_adapters():\n"
        "        try:\n"
        "            peft.PeftModel.load_adapter()\n"
        "            print('fine')\n"
        "        except ScriptError as error:\n"
        "            print(error)\n"
    )
    done = subprocess.run(
        [python, script, INSIDE], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        "the adapter lacks a.lora_A",
        "the adapter has tensors without a place in the model: b.lora_A",
        "fine",
    ]
