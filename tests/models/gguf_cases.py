"""The tiny models of `tests/system/test_gguf.py`: config.json beside the header that means it."""

from __future__ import annotations

import math
from typing import Any

CONTEXT, VOCABULARY, THETA = 512, 512, 500_000.0
LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": THETA,
}  # fmt: skip
_RMS = "attention.layer_norm_rms_epsilon"
_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
_HEADER = {
    "context_length": CONTEXT, "embedding_length": 64, "feed_forward_length": 96, "block_count": 2,
    "attention.head_count": 4, "attention.head_count_kv": 2,
}  # fmt: skip


def llama3_factors(rope: dict[str, Any], width: int) -> list[float]:
    """`rope_freqs` as convert_hf_to_gguf.py of llama.cpp computes them."""
    factors = []
    original = rope["original_max_position_embeddings"]
    low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
    for index in range(width // 2):
        length = 2 * math.pi * rope["rope_theta"] ** (2 * index / width)
        if length < high:
            factors.append(1.0)
        elif length > low:
            factors.append(rope["factor"])
        else:
            spread = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (original / length - rope["low_freq_factor"]) / spread
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return factors


def _case(
    family: str, kind: str, values: dict[str, Any], header: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "architecture": f"{family}ForCausalLM",
        "config": {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config"),
        "values": _COMMON | values,
        "kind": kind,
        "header": _HEADER | header,
        **more,
    }


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **values}}


_FACTORS = {
    "short_factor": [1.0 + index / 10 for index in range(6)],
    "long_factor": [2.0 + index for index in range(6)],
}

CASES: dict[str, dict[str, Any]] = {
    "llama-wide-heads": _case(
        "Llama", "llama",
        {"head_dim": 32, "rms_norm_eps": 1e-3, **_rope("default", rope_theta=70_000.0)},
        {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32,
         "rope.freq_base": 70_000.0, _RMS: 1e-3},
    ),
    "llama-3.1": _case(
        "Llama", "llama",
        {"head_dim": 64, "rms_norm_eps": 1e-5, "rope_parameters": LLAMA_3},
        {"attention.key_length": 64, "attention.value_length": 64, "rope.dimension_count": 64,
         "rope.freq_base": THETA, _RMS: 1e-5},
        vectors={"rope_freqs.weight": llama3_factors(LLAMA_3, 64)},
    ),
    "llama-linear-and-biases": _case(
        "Llama", "llama",
        {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-6, "num_key_value_heads": 4,
         **_rope("linear", factor=4.0)},
        # as many keys as queries, which the header need not say
        {"rope.dimension_count": 16, "attention.head_count_kv": None,
         "rope.scaling.type": "linear", "rope.scaling.factor": 4.0, _RMS: 1e-6},
        general={"name": "mistral"},  # transformers takes it for another architecture then
    ),
    "qwen2-yarn": _case(
        "Qwen2", "qwen2",
        {"tie_word_embeddings": True, "rms_norm_eps": 1e-6, "head_dim": 32, **_rope(
            "yarn", factor=4.0, original_max_position_embeddings=128, rope_theta=1e6)},
        {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32,
         "rope.freq_base": 1e6, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 128, _RMS: 1e-6},
    ),
    "qwen3-key-length": _case(
        "Qwen3", "qwen3",
        {"head_dim": 32, "rms_norm_eps": 1e-6, **_rope("default", rope_theta=1e6)},
        {"attention.key_length": 32, "attention.value_length": 32, "rope.freq_base": 1e6,
         _RMS: 1e-6},
    ),
    "phi3-longrope-window": _case(
        "Phi3", "phi3",
        {"sliding_window": 24, "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.75,
         "original_max_position_embeddings": 128, **_rope(
             "longrope", original_max_position_embeddings=128, partial_rotary_factor=0.75,
             **_FACTORS)},
        {"rope.dimension_count": 12, "attention.sliding_window": 24,
         "rope.scaling.original_context_length": 128,
         "rope.scaling.attn_factor": math.sqrt(1 + math.log(4) / math.log(128)), _RMS: 1e-5},
        vectors={"rope_factors_short.weight": _FACTORS["short_factor"],
                 "rope_factors_long.weight": _FACTORS["long_factor"]},
    ),
    "gemma2": _case(
        "Gemma2", "gemma2",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8,
         "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
         "tie_word_embeddings": True, "rms_norm_eps": 1e-4, **_rope("default")},
        {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 8,
         "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0, _RMS: 1e-4},
    ),
    "gemma3-linear": _case(
        "Gemma3", "gemma3",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 7,
         "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_parameters": {
             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
        {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 8,
         "block_count": 7, "rope.freq_base": 1e6, "rope.scaling.type": "linear",
         "rope.scaling.factor": 8.0, _RMS: 1e-6},
    ),
    "nemotron": _case(
        "Nemotron", "nemotron",
        {"head_dim": 16, "norm_eps": 1e-2, "partial_rotary_factor": 0.25, "hidden_act": "relu2",
         **_rope("default", partial_rotary_factor=0.25)},
        {"rope.dimension_count": 4, "rope.freq_base": 10_000.0,
         "attention.layer_norm_epsilon": 1e-2},
    ),
    "lfm2": _case(
        "Lfm2", "lfm2",
        {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"],
         "conv_L_cache": 3, "block_auto_adjust_ff_dim": False, "norm_eps": 1e-4,
         "tie_word_embeddings": True, **_rope("default", rope_theta=1e6)},
        {"block_count": 4, "attention.head_count_kv": [0, 2, 0, 0], "shortconv.l_cache": 3,
         "rope.freq_base": 1e6, _RMS: 1e-4},
        tokenizer={"ggml.pre": "lfm2"},
    ),
}  # fmt: skip
