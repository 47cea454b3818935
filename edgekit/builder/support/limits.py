"""Known defects of the locked builder with architectures that it supports. Pure.

Each was observed with onnxruntime-genai 0.18.0 and transformers 5.23 on a tiny model of the family.
Without the refusal here the build would end in a KeyError, or in a silently wrong model.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.builder.support.mend import ATTRIBUTES
from edgekit.builder.support.modelconfig import language_part
from edgekit.errors import UsageError


class Refusal(msgspec.Struct, frozen=True):
    """The reason why a model cannot be built, with the fields of `EdgekitError`."""

    what: str
    why: str
    next_step: str

    @property
    def error(self) -> UsageError:
        """The exception that ends the build."""
        return UsageError(self.what, self.why, self.next_step)


# `make_rope_init` of base.py and of the families' own files
_ANY = frozenset({"", "default", "linear", "yarn", "mrope"})
_LLAMAS = frozenset({"LlamaForCausalLM", "NemotronForCausalLM", "SmolLM3ForCausalLM"})
_PHIS = frozenset({"Phi3ForCausalLM", "PhiMoEForCausalLM", "Phi3SmallForCausalLM"})
_OWN = {
    **dict.fromkeys(_LLAMAS, frozenset({"", "default", "llama3", "dynamic"})),
    **dict.fromkeys(_PHIS, frozenset({"", "default", "longrope", "su"})),
    "HunYuanDenseV1ForCausalLM": _ANY | {"dynamic"},
}
_GEMMA_3 = frozenset({"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"})
_GEMMA_4 = frozenset({"Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"})


def known_defect(
    name: str, config: dict[str, Any], precision: str, provider: str
) -> Refusal | None:
    """Why the builder cannot make this model, or None.

    Args:
        name: the architecture.
        config: config.json as the builder reads it, after the changes of `mend.py`.
        precision, provider: the builder's `-p` and `-e`.
    """
    text = language_part(config)
    return _family(name, config, text, precision) or _target(text, precision, provider)


def _target(text: dict[str, Any], precision: str, provider: str) -> Refusal | None:
    if (precision, provider) == ("fp32", "cuda"):
        return Refusal(
            "the model builder makes no fp32 for cuda that a runtime loads",
            "it leaves the KV cache unconnected",
            "build fp16 for cuda, or fp32 for cpu",
        )
    heads, shared = text.get("num_attention_heads"), text.get("num_key_value_heads")
    if (precision, provider) == ("fp16", "cpu") and heads and shared and shared != heads:
        return Refusal(
            "the runtime does not get beyond the prompt with this model in fp16 on a CPU",
            f"its {heads} heads share {shared} of keys and values, which it cannot spread in fp16",
            "build int8, which is smaller and faster, or fp32",
        )
    return None


def _family(
    name: str, config: dict[str, Any], text: dict[str, Any], precision: str
) -> Refusal | None:
    if name in _GEMMA_4:
        return Refusal(
            "the locked model builder does not read Gemma 4",
            "it looks for global_head_dim, which transformers 5 keeps layer by layer",
            "take a Gemma 2 or another family",
        )
    if name == "OlmoForCausalLM":
        return Refusal(
            "the locked model builder makes another model of an OLMo",
            "it takes its layer norm for an RMS norm and does not subtract the mean",
            "take a Llama, Qwen or SmolLM of that size",
        )
    if name == "GraniteMoeHybridForCausalLM":
        mamba = set(text.get("layer_types") or ()) - {"attention", "full_attention"}
        if mamba or text.get("num_local_experts"):
            lost = "Mamba layers" if mamba else "experts"
            return Refusal(
                "the locked model builder makes the dense hybrid Granites alone",
                f"it silently leaves out the {lost}",
                "take a Granite 3 (GraniteForCausalLM)",
            )
    if name in _GEMMA_3 and ATTRIBUTES not in config:
        return Refusal(
            "of Gemma 3 the locked model builder makes the text models of 270 M and 1 B alone",
            "it would scale the rotary positions of all layers, where this one scales some",
            "take google/gemma-3-1b-it, a Gemma 2 or another family",
        )
    if name == "SmolLM3ForCausalLM" and not all(text.get("no_rope_layers") or (0,)):
        return Refusal(
            "the locked model builder does not make SmolLM3",
            "it loses `position_ids` at the layers without rotary embedding",
            "take a SmolLM2, or a Qwen3 of that size",
        )
    if name == "GptOssForCausalLM" and precision in ("int4", "int8"):
        method = (config.get("quantization_config") or {}).get("quant_method")
        if method != "mxfp4":
            return Refusal(
                f"the model builder makes {precision} of gpt-oss from its MXFP4 weights alone",
                "this checkpoint was converted",
                "take the original one, openai/gpt-oss-20b",
            )
    return _rope(name, text)


def _rope(name: str, text: dict[str, Any]) -> Refusal | None:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    style = str(rope.get("rope_type") or rope.get("type") or "")
    if style in _OWN.get(name, _ANY):
        return None
    return Refusal(
        f"the model builder does not do RoPE scaling of type {style} for {name}",
        "it would silently leave the scaling out"
        if name in _LLAMAS
        else "it stops at that setting",
        "take the model it was extended from, or another family",
    )
