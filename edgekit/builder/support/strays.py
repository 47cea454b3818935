"""Keys of config.json that the locked builder reads, and transformers does not. Pure.

transformers keeps an unknown key of config.json as an attribute of the configuration, and the
builder takes it for a setting. The tables were made by comparing the keys that the code of both
reads (transformers 5.23, onnxruntime-genai 0.18.0); `tests/system/test_config_keys.py` does it
again.
"""

from __future__ import annotations

from typing import Any

from edgekit.builder.support.change import Mend

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
SWITCHED = frozenset({"Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration", "Qwen3ForCausalLM"})
"""transformers gives them a window only where `use_sliding_window` is on."""
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
        if name not in readers and _says_something(key, text)
    )
    if not found:
        return None
    verb = "are" if len(found) > 1 else "is"
    return Mend(
        dict.fromkeys(found),
        f"{', '.join(found)} {verb} left out: transformers does not read that for {name}",
    )


def _says_something(key: str, text: dict[str, Any]) -> bool:
    value = text.get(key)
    if key == "hidden_activation":
        # as in Gemma 1.1, which has it under both names
        return bool(value) and value != text.get("hidden_act")
    if key == "layer_types":
        return isinstance(value, list) and set(value) != {"full_attention"}
    return bool(value) and value not in _NO_EFFECT.get(key, ())
