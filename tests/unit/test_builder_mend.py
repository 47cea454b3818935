"""Changes to config.json for the locked builder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.make.told import as_told
from edgekit.builder.support.architectures import support_of
from edgekit.builder.support.mend import (
    ATTRIBUTES,
    mended,
    mends,
    merge_patch,
    sliding_window,
)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
HEAD, THETA = 128, 1e6


def patch(name: str, **config: Any) -> dict[str, Any]:
    found = mends(name, config)
    assert len(found) <= 1
    return found[0].patch if found else {}


def test_a_window_of_every_layer_is_told_layer_by_layer() -> None:
    config = {"sliding_window": 2047, "num_hidden_layers": 3, "max_position_embeddings": 4096}
    told = {"layer_types": ["sliding_attention"] * 3}
    assert patch("Phi3ForCausalLM", **config) == told
    assert patch("MistralForCausalLM", **config) == told


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("MistralForCausalLM", {"sliding_window": None}),
        ("MistralForCausalLM", {"sliding_window": 16, "layer_types": ["sliding_attention"] * 2}),
        ("Qwen2ForCausalLM", {"sliding_window": 16}),  # transformers lists its layers itself
        # Phi-3.5-mini: 262144 of 131072
        (
            "Phi3ForCausalLM",
            {
                "sliding_window": 262144,
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 131072,
            },
        ),
    ],
)
def test_a_window_that_is_told_already_or_never_slides_is_left(
    name: str, config: dict[str, Any]
) -> None:
    assert patch(name, num_hidden_layers=2, **config) == {}


def test_the_epsilon_goes_under_the_name_that_the_builder_reads() -> None:
    assert patch("PhiForCausalLM", layer_norm_eps=1e-5) == {"rms_norm_eps": 1e-5}
    assert patch("NemotronForCausalLM", norm_eps=2e-5) == {"rms_norm_eps": 2e-5}
    assert patch("NemotronForCausalLM") == {"rms_norm_eps": 1e-5}
    assert patch("LlamaForCausalLM", rms_norm_eps=1e-5) == {}


def test_longrope_of_transformers_5_becomes_the_original_form() -> None:
    saved = {
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 4096,
            "short_factor": [1.0, 1.1], "long_factor": [1.0, 4.0],
        },
    }  # fmt: skip
    changes = mends("Phi3ForCausalLM", saved)
    told = mended(saved, changes)
    assert told == {
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.0, 4.0]
        },
    }  # fmt: skip
    assert mends("Phi3ForCausalLM", told) == ()


@pytest.mark.parametrize(
    "config",
    [
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None},  # Google's own
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
        {},
    ],
)
def test_gemma_3_gets_its_two_rotary_bases(config: dict[str, Any]) -> None:
    assert patch("Gemma3ForCausalLM", **config) == {
        ATTRIBUTES: {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rope_local_base_freq": 1e4,
        }
    }


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"rope_parameters": {"sliding_attention": {"type": "yarn", "factor": 8.0}}},
        {
            "rope_parameters": {"full_attention": {"rope_type": "default"}},
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ],
)
def test_a_gemma_3_that_scales_some_layers_is_not_mended(config: dict[str, Any]) -> None:
    assert patch("Gemma3ForCausalLM", **config) == {}
    refusal = support_of({"architectures": ["Gemma3ForCausalLM"]} | config, "fp32", "cpu").refusal
    assert refusal is not None
    assert "270 M and 1 B alone" in refusal.what


def test_a_gemma_3_takes_the_base_of_rope_scaling_before_all_others() -> None:
    near = {"rope_type": "default", "rope_theta": 7.0}
    for ropes in ({}, {"rope_parameters": {"full_attention": near, "sliding_attention": near}}):
        scaling = {"rope_type": "default", "rope_theta": 500.0}
        found = patch("Gemma3ForCausalLM", **ropes, rope_scaling=scaling, rope_theta=9.0)
        assert found[ATTRIBUTES]["rope_parameters"]["rope_theta"] == 500.0
        assert found[ATTRIBUTES]["rope_local_base_freq"] == (7.0 if ropes else 1e4)


def border(rotations: float) -> float:
    """As both the builder and transformers compute it (arXiv 2309.00071, section 3.2)."""
    return HEAD * math.log(32768 / (rotations * 2 * math.pi)) / (2 * math.log(THETA))


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("betas", [{}, {"beta_fast": 32.0, "beta_slow": 1.0}])
def test_yarn_gets_betas_whose_borders_are_the_rounded_ones(
    key: str, betas: dict[str, float]
) -> None:
    config: dict[str, Any] = {"head_dim": HEAD, "rope_theta": THETA, key: YARN | betas}
    told = patch("Qwen2ForCausalLM", **config)[key]
    assert border(told["beta_fast"]) == pytest.approx(math.floor(border(32.0)), abs=1e-9)
    assert border(told["beta_slow"]) == pytest.approx(math.ceil(border(1.0)), abs=1e-9)
    assert border(32.0) % 1  # else the test shows nothing


def test_yarn_without_rounding_gets_the_betas_alone() -> None:
    told = patch("Qwen2ForCausalLM", hidden_size=256, num_attention_heads=2, rope_theta=THETA,
                 rope_scaling=YARN | {"truncate": False})  # fmt: skip
    assert told == {"rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0}}
    rope = YARN | {"truncate": False, "beta_fast": 32.0, "beta_slow": 1.0}
    assert patch("GptOssForCausalLM", head_dim=64, rope_parameters=rope) == {}


def test_a_border_below_zero_stays_above_it_for_the_builder() -> None:
    rope = YARN | {"original_max_position_embeddings": 64}
    told = patch("Qwen2ForCausalLM", head_dim=HEAD, rope_theta=THETA, rope_scaling=rope)
    low = HEAD * math.log(64 / (told["rope_scaling"]["beta_fast"] * 2 * math.pi))
    assert 0 < low < 1e-3


def test_merge_patch_is_that_of_rfc_7386() -> None:
    target = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}
    assert merge_patch(target, {"a": None, "b": {"c": None, "f": 5}, "e": {"g": 6}}) == {
        "b": {"d": 3, "f": 5},
        "e": {"g": 6},
    }
    assert target["b"] == {"c": 2, "d": 3}


def test_the_source_is_given_as_it_is_where_nothing_is_to_be_told(tmp_path: Path) -> None:
    source, work = folder(tmp_path, {"architectures": ["LlamaForCausalLM"]})
    assert as_told(source, work) == (source, ())
    assert list(work.iterdir()) == []


def test_the_view_has_the_sources_files_and_another_config(tmp_path: Path) -> None:
    config = {"architectures": ["PhiForCausalLM"], "layer_norm_eps": 1e-5}
    source, work = folder(tmp_path, config)
    before = (source / "config.json").read_bytes()
    view, notes = as_told(source, work)
    assert view == work / "told"
    assert json.loads((view / "config.json").read_text()) == config | {"rms_norm_eps": 1e-5}
    assert (view / "model.safetensors").read_bytes() == b"weights"
    assert (view / "model.safetensors").readlink() == tmp_path / "blobs" / "weights"
    assert (source / "config.json").read_bytes() == before
    assert len(notes) == 1
    assert "rms_norm_eps" in notes[0]


def test_the_view_of_a_source_named_like_the_output_is_not_the_output(tmp_path: Path) -> None:
    source, work = folder(tmp_path, {"architectures": ["PhiForCausalLM"]})
    source = source.rename(source.with_name("model"))
    view, _ = as_told(source, work)
    assert view != work / "model"
    assert not (work / "model").exists()


def folder(tmp_path: Path, config: dict[str, Any]) -> tuple[Path, Path]:
    """A source in the form of the hub's cache, and an empty work folder."""
    source, work, blobs = (tmp_path / name for name in ("tiny", "work", "blobs"))
    for each in (source, work, blobs):
        each.mkdir()
    (blobs / "weights").write_bytes(b"weights")
    (source / "model.safetensors").symlink_to("../blobs/weights")
    (source / "config.json").write_text(json.dumps(config))
    return source, work


def test_the_language_model_is_that_of_text_config() -> None:
    name, inner = "Qwen2_5_VLForConditionalGeneration", {"rms_norm_eps": 1e-6, "head_dim": 64}
    above = {"rms_norm_eps": 1e-2, "hidden_act": "relu", "head_dim": 64, "image_token_id": 7}
    found = mends(name, {"text_config": {**inner, **MROPE}, **above})
    assert [each.patch for each in found] == [{"rms_norm_eps": None, "hidden_act": None}]
    assert mends(name, {**above, **MROPE}) == ()  # as older versions saved it


MROPE = {
    "hidden_size": 256, "num_attention_heads": 4, "head_dim": 64,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 8, 8]},
}  # fmt: skip


@pytest.mark.parametrize("sections", [None, [11, 11, 11], ["16"], 5])
def test_a_model_that_sees_has_sections_that_fit(sections: object) -> None:
    rope = {"rope_type": "default", "rope_theta": 50.0, "mrope_section": sections}
    told = patch("Qwen3VLForConditionalGeneration", text_config={**MROPE, "rope_parameters": rope})
    assert told == {"text_config": {"rope_parameters": {"mrope_section": [12, 10, 10]}}}
    whole = {key: value for key, value in MROPE.items() if key != "rope_parameters"}
    told = patch("Qwen3VLForConditionalGeneration", text_config=whole)["text_config"]
    assert told["rope_parameters"]["mrope_section"] == [12, 10, 10]


def test_the_sections_are_those_of_whole_heads_where_transformers_rotates_them() -> None:
    rope = {"rope_type": "default", "mrope_section": [16, 8, 8], "partial_rotary_factor": 0.5}
    told = patch("Qwen3VLForConditionalGeneration", text_config={**MROPE, "rope_parameters": rope})
    assert "mrope_section" not in told["text_config"]["rope_parameters"]
    bare = {k: v for k, v in MROPE.items() if k not in ("head_dim", "rope_parameters")}
    found = patch("Qwen3VLForConditionalGeneration", text_config=bare)["text_config"]
    assert sum(found["rope_parameters"]["mrope_section"]) == 64  # heads of 128 by its class


def test_what_is_no_setting_of_rope_is_left_out_of_it() -> None:
    rope = {"rope_type": "default", "final_logit_softcapping": 3.0, "rope_theta": 50.0}
    told = {"rope_parameters": {"final_logit_softcapping": None}}
    assert patch("LlamaForCausalLM", rope_parameters=rope) == told
    # the builder prefers the one beside them
    assert patch("Gemma2ForCausalLM", rope_parameters=rope, final_logit_softcapping=2.0) == {}


def test_the_rotated_part_is_that_of_the_rotary_settings() -> None:
    rope = {"rope_type": "default", "partial_rotary_factor": 1.0}
    both = {"rope_parameters": rope, "partial_rotary_factor": 0.5}
    assert patch("Phi3ForCausalLM", **both) == {"partial_rotary_factor": 1.0}
    null = {"rope_parameters": {**rope, "partial_rotary_factor": None}}
    told = {"rope_parameters": {"partial_rotary_factor": None}}
    assert patch("LlamaForCausalLM", **null) == told


def test_a_window_that_no_layer_has_is_the_whole_context() -> None:
    """The runtime wants room for it."""
    config = {"max_position_embeddings": 512, "layer_types": ["full_attention"] * 2}
    assert patch("Gemma2ForCausalLM", sliding_window=16, **config) == {"sliding_window": 512}
    assert patch("Gemma2ForCausalLM", max_position_embeddings=512) == {"sliding_window": 512}
    assert patch("Gemma2ForCausalLM", max_position_embeddings=8192) == {}
    assert patch("Qwen2ForCausalLM", sliding_window=16, **config) == {}


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("Qwen2ForCausalLM", {}, True),  # those behind layer 28, by its class
        ("Qwen3ForCausalLM", {"max_window_layers": 2}, True),
        ("Qwen3ForCausalLM", {"max_window_layers": 1}, False),
        ("Qwen2_5_VLForConditionalGeneration", {"num_hidden_layers": 36}, True),
        ("Qwen2ForCausalLM", {"num_hidden_layers": 36}, False),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 1]}, True),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 1}, True),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 2}, False),
        ("Gemma2ForCausalLM", {}, False),
    ],
)
def test_a_class_that_gives_no_layer_its_window_has_none(
    name: str, config: dict[str, Any], told: bool
) -> None:
    """The runtime would take it for one of all layers, and fail at the first longer text."""
    whole = {
        "num_hidden_layers": 2, "max_position_embeddings": 512, "sliding_window": 16,
        "use_sliding_window": True, **config,
    }  # fmt: skip
    found = mended(whole, mends(name, whole))
    assert found["sliding_window"] == (512 if told else 16)
    assert sliding_window(name, whole) == (0 if told else 16)


def test_a_quantisation_of_null_is_left_out() -> None:
    assert patch("LlamaForCausalLM", quantization_config=None) == {"quantization_config": None}
    assert patch("LlamaForCausalLM", text_config=None) == {"text_config": None}
    assert patch("LlamaForCausalLM") == {}
    nothing: tuple[dict[str, Any] | None, ...] = (None, {})
    for empty in nothing:
        for name in ("Qwen3_5ForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"):
            changes = mends(name, {"text_config": {"vocab_size": 64, "quantization_config": empty}})
            told = {"text_config": {"quantization_config": None}}
            assert told in [each.patch for each in changes]


@pytest.mark.parametrize(
    "key",
    [
        "compression_ratio", "ffn_hidden_size", "linear_conv_kernel_dim", "linear_num_key_heads",
        "moe_intermediate_size", "num_experts", "num_local_experts",
        "original_max_position_embeddings", "partial_rotary_factor", "rope_position_scale",
        "seq_length",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Gemma2ForCausalLM", "Ernie4_5ForCausalLM", "PhiForCausalLM"])
def test_a_null_that_the_builder_computes_with_is_left_out(name: str, key: str) -> None:
    changes = mends(name, {key: None, "rms_norm_eps": 1e-5})
    assert [each.patch for each in changes] == [{key: None}]
    inner = mends("Qwen3VLForConditionalGeneration", {"text_config": {key: None}})
    assert {"text_config": {key: None}} in [each.patch for each in inner]


def test_a_null_among_the_rotary_settings_is_left_out() -> None:
    rope = YARN | {"mscale": None, "mscale_all_dim": None, "rope_theta": THETA, "beta_fast": 3.0}
    whole = {"hidden_size": 4096, "num_attention_heads": 32, "rope_scaling": rope}
    told = mended(whole, mends("Qwen2ForCausalLM", whole))["rope_scaling"]
    assert "mscale" not in told
    assert "mscale_all_dim" not in told


def test_a_granites_scale_of_attention_is_no_whole_number() -> None:
    """The runtime does not load an attribute of another type."""
    for name in ("GraniteForCausalLM", "GraniteMoeHybridForCausalLM"):
        found = patch(name, attention_multiplier=1)["attention_multiplier"]
        assert (found, type(found)) == (1.0, float)
        assert patch(name, attention_multiplier=0.5) == {}
