"""Keys of config.json that only one of transformers and the locked builder reads."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.builder.support.architectures import support_of
from edgekit.builder.support.mend import mended, mends
from edgekit.builder.support.modelconfig import check_config
from edgekit.errors import UsageError

EACH: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 0}
TEXT: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}


def told(name: str, **config: Any) -> tuple[dict[str, Any], str]:
    """config.json as the builder reads it, and why."""
    whole = TEXT | {"architectures": [name]} | config
    changes = mends(name, whole)
    return mended(whole, changes), "; ".join(each.why for each in changes)


def refused(name: str, provider: str = "cpu", **config: Any) -> str:
    found = support_of(TEXT | {"architectures": [name]} | config, "fp32", provider).refusal
    return f"{found.what} | {found.why}" if found else ""


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("LlamaForCausalLM", "attn_logit_softcapping", 20.0),
        ("LlamaForCausalLM", "final_logit_softcapping", 15.0),
        ("LlamaForCausalLM", "sliding_window", 8),
        ("LlamaForCausalLM", "layer_types", ["sliding_attention", "full_attention"]),
        ("LlamaForCausalLM", "seq_length", 64),
        ("LlamaForCausalLM", "rope_position_scale", 0.5),
        ("LlamaForCausalLM", "hidden_activation", "relu"),
        ("LlamaForCausalLM", "num_local_experts", 4),
        ("LlamaForCausalLM", "ffn_hidden_size", 64),
        ("LlamaForCausalLM", "rope_position_scale", 0),
        ("Phi3ForCausalLM", "moe_intermediate_size", 0),
        ("Lfm2MoeForCausalLM", "num_local_experts", 0),
        ("Lfm2MoeForCausalLM", "swiglu_limit", 0.0),
        ("Phi3ForCausalLM", "attn_logit_softcapping", 0),
        ("Phi3ForCausalLM", "hidden_activation", ""),
        ("Ernie4_5ForCausalLM", "compression_ratio", 2.0),
        ("Ernie4_5ForCausalLM", "moe_intermediate_size", 64),
        ("GraniteForCausalLM", "sliding_window", 8),
        ("PhiForCausalLM", "sliding_window", 8),
        ("Gemma3ForCausalLM", "attn_logit_softcapping", 3.0),
        ("GemmaForCausalLM", "hidden_activation", "gelu"),
        ("Qwen3VLForConditionalGeneration", "sliding_window", 8),
    ],
)
def test_a_key_that_transformers_does_not_read_is_left_out_and_said(
    name: str, key: str, value: object
) -> None:
    found, why = told(name, **{key: value})
    assert key not in found
    assert f"{key} is left out" in why
    inner, _ = told(name, text_config=TEXT | {key: value})
    assert key not in inner["text_config"]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LlamaForCausalLM", {"sliding_window": None, "num_experts": 0}),
        ("LlamaForCausalLM", {"layer_types": ["full_attention"] * 2}),
        ("Ernie4_5ForCausalLM", {"compression_ratio": 1.0}),
        ("GemmaForCausalLM", {"hidden_act": "gelu", "hidden_activation": "gelu"}),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
        ("Gemma2ForCausalLM", {"sliding_window": 4096}),
        ("Lfm2MoeForCausalLM", {"num_experts": 4, "moe_intermediate_size": 64}),
        ("GptOssForCausalLM", {"num_local_experts": 4, "sliding_window": 128}),
        ("ChatGLMModel", {"seq_length": 8192, "ffn_hidden_size": 64}),  # its own code reads them
    ],
)
def test_a_key_that_says_nothing_or_is_read_is_left(name: str, config: dict[str, Any]) -> None:
    assert told(name, **config)[1] == ""


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("PhiForCausalLM", {"qk_layernorm": True}),
        ("Lfm2ForCausalLM", {"conv_bias": True}),
        ("Lfm2MoeForCausalLM", {"conv_bias": True}),
        ("Lfm2VlForConditionalGeneration", {"text_config": TEXT | {"conv_bias": True}}),
        ("Lfm2MoeForCausalLM", {"norm_topk_prob": False}),
        ("NemotronForCausalLM", {"mlp_bias": True}),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}),
        ("GptOssForCausalLM", {"swiglu_alpha": 1.0}),
    ],
)
def test_a_setting_that_the_builder_does_not_read_is_refused_by_name(
    name: str, config: dict[str, Any]
) -> None:
    said = refused(name, **config)
    key = next(iter(config.get("text_config", config).keys() - TEXT.keys()))
    assert f"does not read {key} of {name}" in said


@pytest.mark.parametrize("kind", [None, "nope"])
def test_a_hybrid_granite_without_rotary_positions_is_refused(kind: str | None) -> None:
    name = "GraniteMoeHybridForCausalLM"
    attending: dict[str, Any] = {"layer_types": ["attention"], "num_local_experts": 0}
    assert "rotary positions" in refused(name, position_embedding_type=kind, **attending)
    assert refused(name, position_embedding_type="rope", **attending) == ""


def test_the_second_name_of_layer_types_is_the_one_that_counts() -> None:
    """transformers sets it last."""
    name, attending, mamba = "GraniteMoeHybridForCausalLM", ["attention"], ["mamba"]
    rope: dict[str, Any] = {"position_embedding_type": "rope", "num_local_experts": 0}
    assert "Mamba" in refused(name, layer_types=attending, layers_block_type=mamba, **rope)
    assert refused(name, layer_types=mamba, layers_block_type=attending, **rope) == ""


@pytest.mark.parametrize("kinds", [{}, {"layers_block_type": ["mamba"]}, {"layer_types": None}])
def test_a_hybrid_granite_is_one_of_mamba_layers_by_itself(kinds: dict[str, Any]) -> None:
    name = "GraniteMoeHybridForCausalLM"
    assert "Mamba" in refused(name, position_embedding_type="rope", num_local_experts=0, **kinds)


@pytest.mark.parametrize("experts", [{}, {"num_local_experts": None}, {"num_local_experts": 8}])
def test_a_hybrid_granite_has_experts_unless_it_says_none(experts: dict[str, Any]) -> None:
    """Its class has eight, which the builder would leave out."""
    said = refused(
        "GraniteMoeHybridForCausalLM", position_embedding_type="rope", layer_types=["attention"],
        **experts,
    )  # fmt: skip
    assert "experts" in said


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("LlamaForCausalLM", {"is_causal": False}, "is_causal is False"),
        ("Gemma2ForCausalLM", {"is_causal": None}, "is_causal is None"),
        ("Mistral3ForConditionalGeneration", {"text_config": {"is_causal": 0}}, "is_causal is 0"),
        ("LlamaForCausalLM", {"is_causal": True}, ""),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping"),
        ("Gemma3ForCausalLM", {"final_logit_softcapping": 0}, "final_logit_softcapping"),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": None}, ""),
        ("LlamaForCausalLM", {"attn_logit_softcapping": 0.0}, ""),
        ("GraniteForCausalLM", {"attention_multiplier": 0.0}, "attention_multiplier"),
        ("MistralForCausalLM", {"sliding_window": 0}, "window of 0 tokens"),
        ("Gemma2ForCausalLM", {"sliding_window": 0}, "window of 0 tokens"),
        (
            "Gemma2ForCausalLM",
            {"sliding_window": 0, "layer_types": ["full_attention"]},
            "",
        ),
        ("Qwen2ForCausalLM", {"sliding_window": 0}, ""),  # use_sliding_window is off
        ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling"),
        (
            "LlamaForCausalLM",
            {"per_layer_config": {"0": {"rms_norm_eps": 1.0}}},
            "per_layer_config",
        ),
        ("Qwen3ForCausalLM", {"per_layer_config": {}}, ""),
        ("Qwen3ForCausalLM", {"per_layer_config": None}, ""),
        (
            "Qwen3VLForConditionalGeneration",
            {"text_config": TEXT | {"per_layer_config": {"1": {"head_dim": 8}}}},
            "per_layer_config",
        ),
    ],
)
def test_a_setting_that_the_runtime_takes_for_another_one_is_refused(
    name: str, config: dict[str, Any], said: str
) -> None:
    found = refused(name, **config)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("LlamaForCausalLM", {"hidden_act": "quick_gelu"}, "activation quick_gelu"),
        ("Gemma2ForCausalLM", {"hidden_activation": "silly"}, "activation silly"),
        ("Qwen3_5ForConditionalGeneration", {"text_config": {"hidden_act": "gelu"}}, "gelu"),
        ("LlamaForCausalLM", {"hidden_act": "relu2"}, ""),
        ("Lfm2ForCausalLM", {"hidden_act": "quick_gelu"}, ""),  # transformers does not read it
    ],
)
def test_an_activation_that_the_builder_lacks_is_refused(
    name: str, config: dict[str, Any], said: str
) -> None:
    found = refused(name, **config)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("name", "head", "taken"),
    [
        ("LlamaForCausalLM", 48, True),
        ("LlamaForCausalLM", 40, False),
        ("LlamaForCausalLM", 20, False),
        ("PhiForCausalLM", 80, False),  # 40 are rotated
        ("HunYuanDenseV1ForCausalLM", 24, True),
        ("HunYuanDenseV1ForCausalLM", 20, False),
    ],
)
def test_heads_of_a_width_that_the_runtime_lacks_are_refused(
    name: str, head: int, taken: bool
) -> None:
    said = refused(name, head_dim=head)
    assert (said == "") is taken
    assert taken or f"heads of {head} values" in said
    assert refused(name, "webgpu", head_dim=head) == ""


def test_phi_2_rotates_two_fifths_of_its_heads() -> None:
    assert refused("PhiForCausalLM", head_dim=80, partial_rotary_factor=0.4) == ""


def test_a_gpt_oss_with_other_layers_is_refused() -> None:
    turns = ["sliding_attention", "full_attention"]
    assert "every second layer" in refused("GptOssForCausalLM", layer_types=turns[::-1])
    assert refused("GptOssForCausalLM", layer_types=turns) == ""


@pytest.mark.parametrize(
    "config",
    [
        {"use_sliding_window": False, "sliding_window": 8},
        {"use_sliding_window": True, "sliding_window": None},
    ],
)
def test_layers_with_a_window_need_one(config: dict[str, Any]) -> None:
    said = refused("Qwen2ForCausalLM", layer_types=["sliding_attention"] * 2, **config)
    assert "no window" in said


def test_a_mistral_without_the_key_has_the_window_of_its_class() -> None:
    found, why = told("MistralForCausalLM", max_position_embeddings=32768)
    assert found["layer_types"] == ["sliding_attention"] * 2
    assert found["sliding_window"] == 4096
    assert "4096 tokens back" in why
    assert told("MistralForCausalLM", max_position_embeddings=32768, sliding_window=None)[1] == ""


@pytest.mark.parametrize("name", ["MistralForCausalLM", "Phi3ForCausalLM"])
def test_one_window_is_that_of_every_layer_whatever_the_list_says(name: str) -> None:
    config = {"max_position_embeddings": 4096, "layer_types": ["full_attention"] * 2}
    found, _ = told(name, sliding_window=8, **config)
    assert found["layer_types"] == ["sliding_attention"] * 2
    config["layer_types"] = ["sliding_attention", "full_attention"]
    found, _ = told(name, sliding_window=None, **config)
    assert "layer_types" not in found


def test_an_epsilon_under_both_names_is_that_which_transformers_reads() -> None:
    found, _ = told("PhiForCausalLM", layer_norm_eps=1e-2, rms_norm_eps=1e-5)
    assert found["rms_norm_eps"] == 1e-2


def test_a_phi_3_without_longrope_gets_one_length() -> None:
    """Else the builder looks for the factors of LongRoPE."""
    found, _ = told("Phi3ForCausalLM", max_position_embeddings=8192)
    assert found["original_max_position_embeddings"] == 8192


def test_smollm_3_by_its_interval() -> None:
    assert "SmolLM3" in refused("SmolLM3ForCausalLM", num_hidden_layers=4)
    assert refused("SmolLM3ForCausalLM", num_hidden_layers=3) == ""
    assert "SmolLM3" in refused("SmolLM3ForCausalLM", no_rope_layer_interval=2)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": "4"},
        {"rope_type": "yarn", "attention_factor": [1]},
        {"rope_type": "yarn", "factor": -1.0},
    ],
)
def test_rotary_settings_of_a_wrong_type_are_refused_by_field(rope: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        check_config({"rope_parameters": rope})
    assert "factor" in caught.value.why


@pytest.mark.parametrize(
    ("name", "config", "window"),
    [
        ("MistralForCausalLM", {"max_position_embeddings": 32768}, 4096),
        ("MistralForCausalLM", {"max_position_embeddings": 32768, "sliding_window": None}, 0),
        ("Phi3ForCausalLM", {"max_position_embeddings": 4096, "sliding_window": 2047}, 2047),
        # Phi-3.5-mini's never slides
        ("Phi3ForCausalLM", {"max_position_embeddings": 131072, "sliding_window": 262144}, 0),
        ("Gemma2ForCausalLM", {"max_position_embeddings": 8192}, 4096),
        ("Gemma3ForCausalLM", {"max_position_embeddings": 32768, "sliding_window": 512}, 512),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention"] * 2}, 0),
        ("Qwen2ForCausalLM", {"sliding_window": 4096, "use_sliding_window": False}, 0),
        ("Qwen2ForCausalLM", EACH | {"sliding_window": 4096}, 4096),
        (
            "Qwen2ForCausalLM",
            EACH | {"sliding_window": 4096, "max_position_embeddings": 2048},
            2048,
        ),
        ("LlamaForCausalLM", {"sliding_window": 4096}, 0),
    ],
)
def test_the_window_that_is_reserved_in_full(
    name: str, config: dict[str, Any], window: int
) -> None:
    assert support_of(TEXT | {"architectures": [name]} | config, "int4", "cpu").window == window


def test_a_window_beyond_the_context_is_built_as_the_context() -> None:
    """The runtime wants a cache that holds all of it, and has none longer than the context."""
    config = {"sliding_window": 32768, "use_sliding_window": True, "max_position_embeddings": 4096}
    found, why = told("Qwen2ForCausalLM", **config)
    assert found["sliding_window"] == 4096
    assert "32768 tokens is built as 4096" in why
    config["use_sliding_window"] = False  # as Qwen 2.5 has it
    assert told("Qwen2ForCausalLM", **config)[1] == ""


def test_an_adapter_that_the_builder_would_lose_is_refused() -> None:
    def said(name: str, *, adapter: bool = True) -> str:
        config = TEXT | {"architectures": [name]}
        found = support_of(config, "int4", "cpu", adapter=adapter).refusal
        return found.what if found else ""

    for name in ("Mistral3ForConditionalGeneration", "Qwen3_5ForConditionalGeneration"):
        assert "does not merge an adapter" in said(name)
        assert said(name, adapter=False) == ""
    assert said("LlamaForCausalLM") == ""
