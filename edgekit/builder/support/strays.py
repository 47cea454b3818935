"""Keys of config.json that the locked builder reads, and transformers does not. Pure.

transformers keeps an unknown key of config.json as an attribute of the configuration, and the
builder takes it for a setting. The tables were made by comparing the keys that the code of both
reads (transformers 5.23, onnxruntime-genai 0.18.0); `tests/system/test_config_keys.py` does it
again.
"""

from __future__ import annotations

from typing import Any

from edgekit.builder.support.change import Mend, rotary

_GEMMA_4 = frozenset({"Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"})
_EXPERTS = _GEMMA_4 | {"Lfm2MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"}
_LOCAL_EXPERTS = frozenset(
    {"GptOssForCausalLM", "GraniteMoeHybridForCausalLM", "PhiMoEForCausalLM"}
)
_GEMMA_3 = frozenset({"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"})
_SECOND_GEMMAS = frozenset({"Gemma2ForCausalLM"}) | _GEMMA_3 | _GEMMA_4
_LISTED = frozenset(
    {
        "GptOssForCausalLM", "Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration",
        "Qwen3ForCausalLM", "SmolLM3ForCausalLM",
    }
) | _SECOND_GEMMAS  # fmt: skip
"""transformers reads their layer types, and a window."""
_MIXED = frozenset(
    {
        "GraniteMoeHybridForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM",
        "Lfm2VlForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    }
)  # fmt: skip
"""transformers reads their layer types; none of them has a window."""
WINDOWED = frozenset({"MistralForCausalLM", "Mistral3ForConditionalGeneration", "Phi3ForCausalLM"})
"""transformers gives their window to every layer, whatever `layer_types` says."""
SWITCHED = {
    "Qwen2ForCausalLM": 28, "Qwen2_5_VLForConditionalGeneration": 80, "Qwen3ForCausalLM": 28,
}  # fmt: skip
"""transformers gives them a window only where `use_sliding_window` is on -> their class's
`max_window_layers`, behind which the layers have it."""
WINDOWS = {
    "Gemma2ForCausalLM": 4096, "Gemma3ForCausalLM": 4096, "GptOssForCausalLM": 128,
    "Qwen2ForCausalLM": 4096, "Qwen2_5_VLForConditionalGeneration": 4096,
    "Qwen3ForCausalLM": 4096, "SmolLM3ForCausalLM": 0,
}  # fmt: skip
"""Architectures whose `layer_types` name the layers with a window -> their class's window."""
_NOBODY: frozenset[str] = frozenset()

_READ_BY: dict[str, frozenset[str]] = {
    "attn_logit_softcapping": frozenset({"Gemma2ForCausalLM"}) | _GEMMA_4,
    "compression_ratio": _NOBODY,
    "ffn_hidden_size": _NOBODY,
    "final_logit_softcapping": _SECOND_GEMMAS,
    "hidden_activation": _SECOND_GEMMAS,
    "layer_types": _LISTED | _MIXED | WINDOWED,  # of the last, `mend.py` does it
    "moe_intermediate_size": _EXPERTS,
    "num_experts": _EXPERTS | {"GptOssForCausalLM"},
    "num_local_experts": _LOCAL_EXPERTS,
    "rope_embedding_base": _NOBODY,
    "rope_position_scale": _NOBODY,
    "seq_length": _NOBODY,
    "sliding_window": _LISTED | WINDOWED,
    "swiglu_limit": frozenset({"GptOssForCausalLM"}),
}
"""Key -> the architectures in which transformers reads it."""
_TEXTS = frozenset(_READ_BY) | {
    "conv_L_cache", "head_dim", "hidden_act", "hidden_size", "intermediate_size",
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
    "linear_num_value_heads", "linear_value_head_dim", "max_position_embeddings",
    "multi_query_group_num", "norm_eps", "norm_topk_prob", "num_attention_heads",
    "num_dense_layers", "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads",
    "num_layers", "original_max_position_embeddings", "partial_rotary_factor", "rms_norm_eps",
    "rope_parameters", "rope_scaling", "rope_theta", "routed_scaling_factor",
    "shared_expert_intermediate_size", "use_expert_bias", "use_sliding_window", "vocab_size",
}  # fmt: skip
"""What the builder reads of a language model."""
_ROPES_OWN = frozenset(
    {"original_max_position_embeddings", "partial_rotary_factor", "rope_theta"}
)  # fmt: skip
_LINEAR = frozenset(
    {
        "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
        "linear_num_value_heads", "linear_value_head_dim",
    }
)  # fmt: skip
_ALSO_ZERO = frozenset(
    {
        "compression_ratio", "ffn_hidden_size", "moe_intermediate_size", "rope_embedding_base",
        "rope_position_scale", "seq_length",
    }
)  # fmt: skip
"""The builder computes with their 0, too."""
_ZERO_HARMS = frozenset({"attn_logit_softcapping", "swiglu_limit"})
"""With 0 it makes a model that the runtime does not load, or another one."""
_NULLS = _LINEAR | _ALSO_ZERO | {
    "num_experts", "num_local_experts", "original_max_position_embeddings", "partial_rotary_factor",
}  # fmt: skip
"""The builder computes with them wherever config.json has the key, also with null."""
_ROPE_NULLS = frozenset({"long_mscale", "mscale", "mscale_all_dim", "short_mscale"})
"""The same among the rotary settings."""
_NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "compression_ratio": (1.0,),
    "rope_position_scale": (1.0,),
}


def strays(name: str, text: dict[str, Any]) -> Mend | None:
    """The keys to leave out for the builder.

    Args:
        name: an architecture of transformers' own.
        text: the language model's part of config.json.
    """
    found = sorted(
        key
        for key, readers in _READ_BY.items()
        if name not in readers and _says_something(name, key, text)
    )
    if not found:
        return None
    return Mend(
        dict.fromkeys(found),
        f"{_left_out(found)}: transformers does not read that for {name}",
    )


def shadows(config: dict[str, Any]) -> Mend | None:
    """The keys beside `text_config` that the builder prefers to those inside.

    transformers makes the language model of `text_config` alone. Files that were written by several
    versions have a key in both places.

    Args:
        config: the whole config.json.
    """
    inner = config.get("text_config")
    if not inner:
        return None
    found = sorted(
        key for key in _TEXTS & config.keys() if key not in inner or config[key] != inner[key]
    )
    if not found:
        return None
    return Mend(
        dict.fromkeys(found),
        f"{_left_out(found, ' beside text_config')}: transformers reads text_config",
    )


def misplaced(text: dict[str, Any]) -> Mend | None:
    """The keys among the rotary settings that the builder takes for the model's."""
    key, rope = rotary(text)
    found = sorted((_TEXTS - _ROPES_OWN) & rope.keys() - text.keys())
    if not found:
        return None
    return Mend(
        {key: dict.fromkeys(found)},
        f"{_left_out(found, f' of {key}')}: that is no setting of RoPE",
    )


def nulls(name: str, text: dict[str, Any]) -> Mend | None:
    """The keys that are null, which is no setting for transformers and one for the builder."""
    key, rope = rotary(text)
    empty = sorted(
        each
        for each in _NULLS
        if text.get(each, 0) is None and name not in _READ_BY.get(each, _NOBODY)
    )
    inner = sorted(each for each in _ROPE_NULLS if rope.get(each, 0) is None)
    if not (empty or inner):
        return None
    patch: dict[str, Any] = dict.fromkeys(empty)
    if inner:
        patch[key] = dict.fromkeys(inner)
    return Mend(patch, f"{_left_out(empty + inner)}: null is no setting")


def _left_out(keys: list[str], place: str = "") -> str:
    return f"{', '.join(keys)}{place} {'are' if len(keys) > 1 else 'is'} left out"


def _says_something(name: str, key: str, text: dict[str, Any]) -> bool:
    value = text.get(key)
    if key in _ALSO_ZERO | _ZERO_HARMS or (key == "num_local_experts" and name in _EXPERTS):
        return value not in (None, *_NO_EFFECT.get(key, ()))
    if key == "hidden_activation":
        # as in Gemma 1.1, which has it under both names
        return value is not None and value != text.get("hidden_act")
    if key == "layer_types":
        return isinstance(value, list) and set(value) != {"full_attention"}
    return bool(value) and value not in _NO_EFFECT.get(key, ())
