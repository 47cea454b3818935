"""Rotary settings: what the locked builder is told, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgekit.builder.support.architectures import support_of
from edgekit.builder.support.mend import mended, mends
from edgekit.builder.support.rotary import head_width

TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "max_position_embeddings": 16384,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
MXFP4 = {"quant_method": "mxfp4"}
GROWN = 0.1 * math.log(4)  # of a factor of 4
LONG = {
    "short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "type": "longrope",
}  # fmt: skip


def told(name: str, **config: Any) -> dict[str, Any]:
    """config.json as the builder reads it."""
    whole = TEXT | {"architectures": [name]} | config
    return mended(whole, mends(name, whole))


def refused(name: str, **config: Any) -> str:
    whole = TEXT | {"architectures": [name]} | config
    found = support_of(whole, "int4", "cpu").refusal
    return f"{found.what} | {found.why}" if found else ""


@pytest.mark.parametrize(
    ("given", "magnitude"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"attention_factor": 1.0}, 1.0),
        # transformers reads mscale together with mscale_all_dim alone
        ({"mscale": 0.7}, GROWN + 1),
        ({"mscale": 0.7, "mscale_all_dim": 1.3, "attention_factor": 1.5}, 1.5),
        ({"mscale": 1.0, "mscale_all_dim": -1.0}, (1 + GROWN) / (1 - GROWN)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_yarns_attention_factor_goes_under_the_name_that_the_builder_reads(
    key: str, given: dict[str, float], magnitude: float
) -> None:
    rope = told("Qwen2ForCausalLM", **{key: YARN | given})[key]
    assert rope["mscale"] == pytest.approx(magnitude, rel=1e-12)
    assert "mscale_all_dim" not in rope


@pytest.mark.parametrize(
    "given", [{}, {"mscale": 0.7, "mscale_all_dim": 1.3}, {"mscale_all_dim": 0.7}, {"mscale": 0.0}]
)
def test_a_magnitude_that_both_compute_alike_is_left(given: dict[str, float]) -> None:
    rope = told("Qwen2ForCausalLM", rope_parameters=YARN | given)["rope_parameters"]
    assert {key: rope[key] for key in given} == given
    assert rope.get("mscale") == given.get("mscale")


def test_yarn_inside_of_a_text_config_is_told_there() -> None:
    inner = TEXT | {"model_type": "mistral", "sliding_window": None}
    inner["rope_parameters"] = YARN | {"attention_factor": 1.5}
    whole = told("Mistral3ForConditionalGeneration", text_config=inner)
    assert whole["text_config"]["rope_parameters"]["mscale"] == 1.5
    assert "rope_parameters" not in whole


def test_yarns_borders_follow_the_length_that_transformers_takes() -> None:
    """The top-level one wins over that of the rotary settings."""
    both = told("Qwen2ForCausalLM", rope_parameters=YARN, original_max_position_embeddings=2048)
    one = told(
        "Qwen2ForCausalLM", rope_parameters=YARN | {"original_max_position_embeddings": 2048}
    )
    keys = ("beta_fast", "beta_slow")
    assert [both["rope_parameters"][k] for k in keys] == [one["rope_parameters"][k] for k in keys]


def test_yarn_without_a_factor_gets_the_ratio_of_the_lengths_or_is_refused() -> None:
    none = YARN | {"factor": None}
    assert told("Qwen2ForCausalLM", rope_parameters=none)["rope_parameters"]["factor"] == 4.0
    gone = {key: value for key, value in YARN.items() if key != "factor"}
    assert "without factor" in refused("Qwen2ForCausalLM", rope_parameters=gone)


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        (YARN | {"original_max_position_embeddings": 65536}, "with these borders"),
        (YARN | {"attention_factor": 0.0}, "not above zero"),
        (YARN | {"partial_rotary_factor": 0.5}, "transformers itself does not run"),
        ({"rope_type": "llama3", "factor": 8.0}, "RoPE scaling of type llama3"),
        ({"rope_type": "mrope", "mrope_section": [1]}, "RoPE scaling of type mrope"),
    ],
)
def test_what_the_builder_cannot_rotate_is_refused(rope: dict[str, Any], said: str) -> None:
    assert said in refused("Qwen2ForCausalLM", rope_parameters=rope)


def test_llama_3_without_its_factors_is_refused() -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    assert "without high_freq_factor" in refused("LlamaForCausalLM", rope_parameters=rope)


def test_yarn_on_a_part_of_each_head_is_refused() -> None:
    # of a family that rotates a part
    rope = YARN | {"partial_rotary_factor": 0.5}
    assert "part of each head" in refused("PhiForCausalLM", rope_parameters=rope)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM"])
@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5, "rope_scaling": None},
        {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
    ],
)
def test_a_part_that_transformers_does_not_read_is_left_out(
    name: str, config: dict[str, Any]
) -> None:
    found = told(name, **config)
    assert "partial_rotary_factor" not in found
    assert "partial_rotary_factor" not in (found.get("rope_parameters") or {})


def test_a_part_that_transformers_reads_is_left_as_it_is() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    for name in ("PhiForCausalLM", "Phi3ForCausalLM", "NemotronForCausalLM"):
        assert told(name, rope_parameters=rope)["rope_parameters"] == rope


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_linear_scaling_of_a_llama_becomes_a_scale_of_positions(key: str) -> None:
    """As DeepSeek Coder has it."""
    found = told("LlamaForCausalLM", **{key: {"type": "linear", "factor": 4.0}})
    assert found["rope_position_scale"] == 0.25
    assert found[key] == {"rope_type": "default"}
    assert refused("LlamaForCausalLM", **{key: {"type": "linear", "factor": 4.0}}) == ""


@pytest.mark.parametrize(
    ("given", "factor"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"factor": 8.0}, math.sqrt(1 + math.log(8) / math.log(4096))),
        ({"short_mscale": 1.2, "long_mscale": 1.3}, math.sqrt(1 + math.log(4) / math.log(4096))),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_longropes_attention_factor_is_told(
    given: dict[str, float], factor: float, saved: bool
) -> None:
    rope = {"rope_type": "longrope", **{k: v for k, v in LONG.items() if k != "type"}}
    key, form = ("rope_parameters", rope) if saved else ("rope_scaling", LONG)
    found = told("Phi3ForCausalLM", original_max_position_embeddings=4096, **{key: form | given})[
        "rope_scaling"
    ]
    assert found["short_mscale"] == found["long_mscale"] == pytest.approx(factor)
    assert found["type"] == "longrope"


def test_longrope_of_a_context_that_was_not_extended_is_refused() -> None:
    config = {"rope_scaling": LONG, "original_max_position_embeddings": 16384}
    assert "not extended" in refused("Phi3ForCausalLM", **config)


@pytest.mark.parametrize("style", ["linear", "yarn", "dynamic"])
def test_hunyuan_scales_by_its_alpha_alone(style: str) -> None:
    name = "HunYuanDenseV1ForCausalLM"
    assert refused(name, rope_parameters=YARN | {"rope_type": style})
    assert refused(name, rope_parameters={"rope_type": "dynamic", "alpha": 1000.0}) == ""


def test_ministral_is_refused_beyond_the_length_where_its_queries_are_scaled() -> None:
    inner = TEXT | {
        "model_type": "ministral3",
        "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1},
    }
    whole = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": inner}

    def said(context: int) -> str:
        found = support_of(whole, "int4", "cpu", context=context).refusal
        return found.next_step if found else ""

    assert "--context 4096" in said(8192)
    assert "--context 4096" in said(0)
    assert said(4096) == ""


@pytest.mark.parametrize("inner", [{}, {"original_max_position_embeddings": 256}])
def test_a_phi_3s_original_context_is_that_beside_the_rotary_settings(
    inner: dict[str, Any],
) -> None:
    """Its class has 4096 where config.json leaves the key out, and prefers that, too."""
    rope = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0], **inner}
    found = told("Phi3ForCausalLM", rope_parameters=rope)
    assert found["original_max_position_embeddings"] == 4096
    found = told("Phi3ForCausalLM", rope_parameters=rope, original_max_position_embeddings=512)
    assert found["original_max_position_embeddings"] == 512


@pytest.mark.parametrize("kind", ["default", "linear", None])
def test_longrope_is_told_by_its_old_name_whatever_that_says(kind: str | None) -> None:
    """transformers reads `rope_type` first, the builder takes the magnitude by `type`."""
    rope = LONG | {"type": kind, "rope_type": "longrope"}
    config = {"rope_scaling": rope, "original_max_position_embeddings": 4096}
    assert told("Phi3ForCausalLM", **config)["rope_scaling"]["type"] == "longrope"


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_longrope_without_a_magnitude_is_refused(factor: float, key: str) -> None:
    kind = "rope_type" if key == "rope_parameters" else "type"
    rope = {k: v for k, v in LONG.items() if k != "type"} | {kind: "longrope"}
    config = {key: rope | {"attention_factor": factor}, "original_max_position_embeddings": 4096}
    assert "attention factor is not above zero" in refused("Phi3ForCausalLM", **config)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("Qwen3ForCausalLM", 128), ("GemmaForCausalLM", 256), ("Gemma2ForCausalLM", 256),
        ("GptOssForCausalLM", 64), ("Ernie4_5ForCausalLM", 128), ("LlamaForCausalLM", 32),
    ],
)  # fmt: skip
def test_heads_are_as_wide_as_the_class_has_them(name: str, width: int) -> None:
    """YaRN's borders depend on it; config.json may leave the width out."""
    text = {"hidden_size": 128, "num_attention_heads": 4, "rope_parameters": YARN}
    assert head_width(name, text) == width
    if name != "LlamaForCausalLM":
        found, explicit = (told(name, **text, **more) for more in ({}, {"head_dim": width}))
        assert found["rope_parameters"] == explicit["rope_parameters"]


def test_a_gpt_oss_without_rotary_settings_has_those_of_its_class() -> None:
    turns = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 64}
    assert refused("GptOssForCausalLM", quantization_config=MXFP4, **turns, rope_theta=1.5e5) == ""
    said = refused("GptOssForCausalLM", quantization_config=MXFP4, **turns, rope_theta=50.0)
    assert "these borders" in said
    said = refused("GptOssForCausalLM", quantization_config=MXFP4, **turns, rope_parameters={})
    assert "type default" in said
