"""Adapters of which the builder would lose a part: plan and build refuse by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import LORA, TENSORS, Shape, lora, write_adapter, write_model
from tests.unit.test_builder_weights import packed, refusal, taken

Q0 = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base")


def option(adapter: Path) -> str:
    return f"adapter_path={adapter}"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 4}, "rank_pattern": {"down_proj": 4}, "r": 16},
        {"layers_to_transform": [0, 1], "lora_dropout": 0.1, "init_lora_weights": "pissa"},
        {"bias": None, "target_modules": "all-linear"},
    ],
)
def test_plain_lora_is_taken(settings: dict[str, Any], base: Path, tmp_path: Path) -> None:
    taken(base, option(write_adapter(tmp_path / "a", **settings)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "trained biases"),
        ({"bias": "lora_only"}, "trained biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "bare parameters"),
        ({"trainable_token_indices": [1, 2]}, "rows of the embedding"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "repeated layers"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"peft_type": "IA3"}, "this one is IA3"),
        ({"peft_type": "ADALORA"}, "this one is ADALORA"),
        ({"peft_type": None}, "of no named type"),
    ],
)
def test_what_the_builder_would_leave_out_is_refused_by_name(
    settings: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    assert said in refusal(base, option(write_adapter(tmp_path / "a", **settings)))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"base_model.model.{Q0}.lora_magnitude_vector": (64,)}, "lora_magnitude_vector"),
        (lora("lm_head", 96, 64), "lm_head.lora_A"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": (4, 96)}, "lora_embedding_A"),
        ({"base_model.model.model.embed_tokens.weight": (96, 64)}, "embed_tokens.weight"),
        ({f"base_model.model.{Q0}.bias": (64,)}, "q_proj.bias"),
        ({f"base_model.model.{Q0}.lora_B.bias": (64,)}, "lora_B.bias"),
        ({f"{Q0}.lora_A.weight": (4, 64)}, f"has {Q0}.lora_A.weight"),
        (lora("model.layers.2.self_attn.q_proj", 64, 64), "no place for 1 of the adapter's"),
        (lora("model.layers.0.self_attn.qkv_proj", 128, 64), "self_attn.qkv_proj"),
        (lora("model.layers.0.self_attn.k_proj", 64, 64), "64 x 64, the model's matrix is 32 x 64"),
        (lora("model.layers.0.mlp.up_proj", 128, 32), "up_proj has another shape"),
        ({f"base_model.model.{Q0[:-6]}v_proj.lora_A.weight": (4, 64)}, "lora_B is missing"),
    ],
)
def test_a_tensor_that_finds_no_place_is_refused_by_name(
    tensors: dict[str, Shape], said: str, base: Path, tmp_path: Path
) -> None:
    assert said in refusal(base, option(write_adapter(tmp_path / "a", LORA | tensors)))


@pytest.mark.parametrize(
    ("settings", "tensors", "said"),
    [
        ({"r": 8}, {}, "the rank is 8 there, lora_A has 4 and lora_B 4"),
        ({}, {f"base_model.model.{Q0}.lora_B.weight": (64, 2)}, "lora_B 2"),
        ({"target_modules": ["q_proj", "k_proj", "down_proj"]}, {},
         "lacks the tensors of model.layers.0.self_attn.k_proj, model.layers.1.self_attn.k_proj"),
    ],
)  # fmt: skip
def test_tensors_that_contradict_the_configuration_are_refused(
    settings: dict[str, Any], tensors: dict[str, Shape], said: str, base: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "a", LORA | tensors, **settings)
    assert said in refusal(base, option(adapter))


def test_an_adapter_without_tensors_is_refused(base: Path, tmp_path: Path) -> None:
    assert "has no tensors" in refusal(base, option(write_adapter(tmp_path / "a", {})))


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter_is_refused(missing: str, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    (adapter / missing).unlink()
    assert f"it has no {missing}" in refusal(base, option(adapter))


def test_an_adapter_that_is_not_there_is_refused_by_the_plan_too(
    base: Path, tmp_path: Path
) -> None:
    said = refusal(base, option(tmp_path / "none"))
    assert "adapter_path names" in said
    assert "does not exist" in said


def test_an_unreadable_configuration_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    (adapter / "adapter_config.json").write_text("[]")
    assert "adapter_config.json of a cannot be read" in refusal(base, option(adapter))


def test_an_adapter_inside_the_models_folder_is_refused(base: Path, tmp_path: Path) -> None:
    for file in write_adapter(tmp_path / "a").iterdir():
        shutil.copy(file, base / file.name)
    said = refusal(base)
    assert "base holds a model and an adapter" in said
    assert "adapter_path" in said


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    said = refusal(write_adapter(tmp_path / "a"))
    assert "a is an adapter, not a model" in said


def test_a_quantised_base_takes_no_adapter(tmp_path: Path) -> None:
    form, config = packed("awq")
    base = write_model(tmp_path / "base", form, **config)
    said = refusal(base, option(write_adapter(tmp_path / "a")))
    assert "no adapter on a quantised checkpoint" in said


@pytest.mark.parametrize(
    "name", ["Qwen3_5ForConditionalGeneration", "Qwen3VLForConditionalGeneration",
             "Lfm2ForCausalLM"],
)  # fmt: skip
def test_families_whose_adapters_were_not_compared_are_refused(name: str, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", TENSORS, architectures=[name])
    said = refusal(base, option(write_adapter(tmp_path / "a")))
    shown = f"was not shown to make adapters of {name} right"
    assert shown in said or f"does not merge an adapter into {name}" in said
    assert "merge_and_unload" in said
