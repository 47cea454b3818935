"""The models that a plan refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgekit.builder.support.architectures import (
    _INSTEAD,
    ARCHITECTURES,
    alternative,
    support_of,
)
from edgekit.builder.support.modelconfig import check_config
from edgekit.builder.support.packed import unreadable_checkpoint
from edgekit.errors import UsageError
from tests.matrix.shapes import FAMILIES

SMOLLM2_LAYER: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 1,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}


def verdict(provider: str = "cpu", *, trusted: bool = False, **config: Any) -> str:
    """The text of a refusal, or an empty string."""
    found = support_of(config, "int4", provider, trust_remote_code=trusted).refusal
    return " | ".join((found.what, found.why, found.next_step)) if found else ""


def test_known_text_models_are_not_refused() -> None:
    for name in ("LlamaForCausalLM", "Phi3ForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM"):
        assert verdict(architectures=[name]) == ""


def test_phi_35_moe_is_refused_on_a_cpu_and_not_on_cuda() -> None:
    said = verdict(architectures=["PhiMoEForCausalLM"])
    assert "CUDA alone" in said
    assert "microsoft/Phi-3.5-mini-instruct" in said
    assert verdict("cuda", architectures=["PhiMoEForCausalLM"]) == ""


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("MixtralForCausalLM", "MistralForCausalLM"),
        ("Qwen3MoeForCausalLM", "Qwen3ForCausalLM"),
        ("Olmo2ForCausalLM", "Qwen3ForCausalLM"),
        ("Qwen4ForCausalLM", "Qwen"),
        ("Gemma3nForConditionalGeneration", "Gemma"),
        ("BloomForCausalLM", "Llama"),
    ],
)
def test_an_unknown_architecture_is_refused_with_another(name: str, instead: str) -> None:
    said = verdict(architectures=[name])
    assert f"does not know {name}" in said
    assert instead in said


NAMED = re.compile(r"\b\w+For(?:CausalLM|ConditionalGeneration)\b")
STRANGERS = ("BloomForCausalLM", "Olmo4ForCausalLM", "Gemma5ForCausalLM", "Gemma4ForCausalLM",
    "WhisperForCausalLM", "GraniteMoeHybrid2ForCausalLM", "SmolLM4ForCausalLM",
    "PhimoeForCausalLM", "Qwen3_6ForConditionalGeneration", "Gemma3nForCausalLM")  # fmt: skip


def test_an_alternative_is_one_that_can_be_built() -> None:
    known = {family.architecture: family for family in reversed(FAMILIES) if family.config}
    offered = {word for name in (*ARCHITECTURES, *_INSTEAD, *STRANGERS) for word in NAMED.findall(
        alternative(name)
    )}  # fmt: skip
    assert len(offered) > 5
    for other in offered:
        config = {"architectures": [other], **known[other].values}
        assert verdict(**config) == "", other


def test_a_refusal_offers_what_can_be_built() -> None:
    """The classes that its next step names."""
    known = {family.architecture: family for family in reversed(FAMILIES) if family.config}
    for family in FAMILIES:
        config = {"architectures": [family.architecture], **family.values}
        refusal = support_of(config, "int4", "cpu").refusal
        for other in NAMED.findall(refusal.next_step) if refusal else ():
            assert verdict(architectures=[other], **known[other].values) == "", refusal


def test_code_of_the_repository_is_never_run_by_itself() -> None:
    name = "Phi3SmallForCausalLM"
    assert "--trust-remote-code" in verdict(architectures=[name], auto_map={"AutoModel": "x"})
    assert verdict(trusted=True, architectures=[name]) == ""
    # its repository has code, transformers has its own
    assert verdict(architectures=["Phi3ForCausalLM"], auto_map={"AutoModel": "x"}) == ""


def test_a_model_that_also_sees_is_built_without_its_eyes() -> None:
    found = support_of({"architectures": ["Qwen3VLForConditionalGeneration"]}, "int4", "cpu")
    assert found.refusal is None
    assert "only the language part" in found.notes[0]


def test_checkpoints_quantised_another_way_are_refused() -> None:
    def said(method: str, provider: str = "cpu") -> str:
        given = {"quant_method": method}
        return verdict(provider, architectures=["LlamaForCausalLM"], quantization_config=given)

    assert said("awq") == ""
    assert "cannot read checkpoints quantised with bitsandbytes" in said("bitsandbytes")
    assert "CUDA alone" in said("modelopt")
    assert said("modelopt", "cuda") == ""
    for method in ("compressed-tensors", "fp8", "mxfp4", "hqq", "torchao", "gptq_v2", "AWQ", ""):
        assert said(method), method


@pytest.mark.parametrize("name", ["GptOssForCausalLM", "Mistral3ForConditionalGeneration"])
def test_what_transformers_alone_would_load_is_what_it_loads_by_itself(name: str) -> None:
    """The builder drops the quantization_config of these two; the rest needs other packages."""

    def said(method: str) -> str:
        given = {"quant_method": method}
        config = {"architectures": [name], "quantization_config": given, "text_config": {"a": 1}}
        refusal = unreadable_checkpoint(name, config, "cpu")
        return refusal.what if refusal else ""

    assert said("mxfp4") == said("fp8") == ""
    for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors", "hqq", "torchao", ""):
        assert "cannot read checkpoints quantised with" in said(method)
    assert (said("quark") == "") == (name[0] == "G")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quant_method": "gptq", "desc_act": False, "checkpoint_format": "gptq"}, ""),
        ({"quant_method": "gptq", "desc_act": False, "checkpoint_format": None}, ""),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "checkpoint_format"),
        ({"quant_method": "gptq", "format": "gptq_v2"}, "format of quantization_config"),
        ({"quant_method": "gptq", "is_marlin_format": True}, "is_marlin_format"),
        ({"quant_method": "gptq", "desc_act": True}, "desc_act"),
        ({"quant_method": "awq", "version": "GEMM"}, ""),
        ({"quant_method": "awq", "version": "gemv"}, "version"),
        ({"quant_method": "gptq", "checkpoint_format": "GPTQ", "pack_dtype": "int32"}, ""),
        ({"quant_method": "gptq", "meta": {"quantizer": ["gptqmodel:5.0"], "uri": "x"}}, ""),
        ({"quant_method": "gptq", "dynamic": {"+:.*down.*": {"bits": 8}}}, ""),
        ({"quant_method": "gptq", "bits": 8}, ""),
        ({"quant_method": "gptq", "bits": 3}, "2, 4, 8"),
        ({"quant_method": "gptq", "pack_dtype": "int16"}, "pack_dtype"),
        ({"quant_method": "gptq", "meta": {"checkpoint_format": "gptq_v2"}}, "checkpoint_format"),
        ({"quant_method": "gptq", "packing_format": "auto_round:auto_gptq"}, ""),
        ({"quant_method": "gptq", "packing_format": "auto_round:gptq_v2"}, "packing_format"),
        ({"quant_method": "gptq", "is_bitblas_format": True}, "is_bitblas_format"),
        ({"quant_method": "awq", "format": "gemv_fast"}, "format"),
        ({"quant_method": "awq", "checkpoint_format": "marlin"}, "checkpoint_format"),
        ({"quant_method": "awq", "version": "exllama"}, "version"),
        ({"quant_method": "awq", "backend": "autoawq"}, ""),
        ({"quant_method": "awq", "backend": "llm-awq"}, "backend"),
        ({"quant_method": "awq", "bits": 8}, "it does 4"),
        ({"quant_method": "awq", "dynamic": {"-:.*lm_head.*": {}}}, ""),
        ({"quant_method": "awq", "dynamic": {".*down.*": {"bits": 8}}}, "dynamic"),
    ],
)
def test_layouts_of_quantised_weights_that_the_builder_mistakes_are_refused(
    given: dict[str, Any], says: str
) -> None:
    refusal = support_of(
        {"architectures": ["LlamaForCausalLM"], "quantization_config": given}, "int4", "cpu"
    ).refusal
    assert (refusal is None) == (says == "")
    assert refusal is None or says in refusal.why


def test_how_weights_are_quantised_stands_beside_text_config() -> None:
    """transformers looks there alone, and the builder within text_config, too."""
    name, given = "Qwen3_5ForConditionalGeneration", {"quant_method": "awq"}
    inner = {"quantization_config": given}
    assert "within text_config" in verdict(architectures=[name], text_config=inner)
    assert verdict(architectures=[name], text_config={"quantization_config": None}) == ""
    assert verdict(architectures=[name], quantization_config=given) == ""


GRANITE = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "position_embedding_type": "rope",
    "layer_types": ["attention"],
}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"architectures": ["Qwen2ForCausalLM"], "rope_scaling": {"rope_type": "llama3"}},
            "llama3",
        ),
        ({"architectures": ["LlamaForCausalLM"], "rope_scaling": {"type": "yarn"}}, "leave"),
        (
            {"architectures": ["Gemma3ForCausalLM"], "rope_scaling": {"rope_type": "linear"}},
            "Gemma 3",
        ),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma 3"),
        ({"architectures": ["Gemma4ForConditionalGeneration"]}, "Gemma 4"),
        ({"architectures": ["OlmoForCausalLM"]}, "layer norm"),
        (GRANITE | {"layer_types": ["mamba", "attention"]}, "Mamba"),
        (GRANITE | {"num_local_experts": 4}, "experts"),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 1, 0]}, "position_ids"),
        ({"architectures": ["GptOssForCausalLM"]}, "MXFP4"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "speech"),
        ({"architectures": []}, "names no architecture"),
        ({}, "names no architecture"),
    ],
)
def test_what_the_locked_builder_stops_at_is_said_before(config: dict[str, Any], said: str) -> None:
    assert said in verdict(**config)


def test_targets_whose_graphs_do_not_run_are_refused() -> None:
    def said(precision: str, provider: str, kv_heads: int) -> str:
        config = SMOLLM2_LAYER | {"num_key_value_heads": kv_heads}
        found = support_of(config, precision, provider).refusal
        return found.why if found else ""

    assert "KV cache unconnected" in said("fp32", "cuda", 3)
    assert "9 heads share 3" in said("fp16", "cpu", 3)
    assert said("fp16", "cpu", 9) == ""
    assert said("fp16", "cuda", 3) == ""
    assert said("fp32", "cpu", 3) == ""


@pytest.mark.parametrize(
    ("provider", "precision", "where"),
    [("cpu", "int4", "a CPU"), ("cuda", "int4", "a GPU"), ("cuda", "fp16", "a GPU")],
)
def test_heads_that_attention_does_not_take_are_refused(
    provider: str, precision: str, where: str
) -> None:
    def said(**config: Any) -> str:
        found = support_of(SMOLLM2_LAYER | config, precision, provider).refusal
        return f"{found.what}: {found.why}" if found else ""

    assert said(head_dim=40) == (
        f"the runtime does not attend with heads of 40 values: on {where} it takes multiples of 16"
    )
    assert said(head_dim=48) == ""
    # these rotate positions before the attention
    hunyuan = {"architectures": ["HunYuanDenseV1ForCausalLM"]}
    assert said(**hunyuan, head_dim=40) == ""
    assert "multiples of 8" in said(**hunyuan, head_dim=36)
    phi = {"architectures": ["PhiForCausalLM"], "head_dim": 64, "partial_rotary_factor": 0.375}
    assert "rotates 24 of them" in said(**phi)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Phi3ForCausalLM"], "rope_parameters": LONG | {"type": "longrope"}},
        {"architectures": ["Phi3ForCausalLM"], "rope_parameters": LONG},  # it is mended
        GRANITE | {"layer_types": ["attention"] * 2, "num_local_experts": 0},
        {"architectures": ["Phi3ForCausalLM"], "rope_scaling": {"type": "longrope"}},
        {"architectures": ["LlamaForCausalLM"], "rope_scaling": LLAMA_3},
        {"architectures": ["LlamaForCausalLM"], "rope_scaling": None},
        {"architectures": ["Qwen2ForCausalLM"], "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"architectures": ["Gemma3ForCausalLM"]},
        {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 1]},
    ],
)
def test_what_it_can_do_is_not_refused(config: dict[str, Any]) -> None:
    assert verdict(**config) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", "LlamaForCausalLM"),
        ("rope_scaling", "linear"),
        ("hidden_size", -1),
        ("num_hidden_layers", 10**9),
        ("layer_types", 3),
        ("sliding_window", "wide"),
        ("rope_theta", -1.0),
        ("text_config", {"hidden_size": "large"}),
    ],
)
def test_a_config_of_wrong_types_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        check_config(SMOLLM2_LAYER | {field: value})
    assert (field if field != "text_config" else "hidden_size") in caught.value.why


def test_a_rotary_field_out_of_its_bounds_is_refused() -> None:
    with pytest.raises(UsageError, match="not that of a model"):
        check_config(SMOLLM2_LAYER | {"rope_scaling": {"type": "yarn", "beta_fast": 0}})
