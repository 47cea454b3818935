"""Known defects of the locked builder with architectures that it supports. Pure.

Each was observed with onnxruntime-genai 0.18.0 and transformers 5.23 on a tiny model of the family.
Without the refusal here the build would end in a KeyError, or in a silently wrong model.
"""

from __future__ import annotations

from typing import Any

from edgekit.builder.support.change import Refusal, rope_type, rotary
from edgekit.builder.support.mend import ATTRIBUTES
from edgekit.builder.support.modelconfig import language_part
from edgekit.builder.support.rotary import LLAMAS, defect, head_width, rotated
from edgekit.builder.support.strays import SWITCHED, WINDOWED, WINDOWS

__all__ = ["Refusal", "adapter_lost", "beyond", "known_defect"]

# `make_rope_init` of base.py and of the families' own files
_ANY = frozenset({"", "default", "linear", "yarn"})
_SEEING = frozenset({"", "default", "mrope"})
_PHIS = frozenset({"Phi3ForCausalLM", "PhiMoEForCausalLM", "Phi3SmallForCausalLM"})
_QWEN_3_5 = frozenset({"Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"})
_QWEN_VLS = frozenset({"Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"})
_OWN = {
    **dict.fromkeys(LLAMAS, frozenset({"", "default", "llama3", "dynamic"})),
    **dict.fromkeys(_PHIS, frozenset({"", "default", "longrope", "su"})),
    **dict.fromkeys(_QWEN_3_5 | _QWEN_VLS, _SEEING),
    "GptOssForCausalLM": frozenset({"yarn"}),
    "HunYuanDenseV1ForCausalLM": frozenset({"", "default", "dynamic"}),
}
_GEMMA_3 = frozenset({"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"})
_GEMMA_4 = frozenset({"Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"})
_GEMMAS = frozenset({"GemmaForCausalLM", "Gemma2ForCausalLM"}) | _GEMMA_3
_LFM2 = frozenset({"Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration"})
_LFM2_AUDIO = "Lfm2AudioForConditionalGeneration"
_ACTIVATIONS = frozenset(
    {"silu", "swish", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "relu2"}
)  # fmt: skip
"""transformers' names of those that `make_activation` of base.py does equally."""
_OWN_ACTIVATION = _LFM2 | {_LFM2_AUDIO, "GptOssForCausalLM"}  # they do not read hidden_act
_SECOND_GEMMAS = frozenset({"Gemma2ForCausalLM"}) | _GEMMA_3 | _GEMMA_4
_SWIGLU_ALPHA = 1.702  # gpt-oss's, which the builder has as a constant
_SEPARATE = frozenset({"HunYuanDenseV1ForCausalLM"}) | _QWEN_3_5 | _QWEN_VLS
"""Their positions are rotated by an operator of its own, which takes any even width."""
_WIDTH, _SEPARATE_WIDTH = 16, 8
_ATTENDING = {"cpu": "a CPU", "cuda": "a GPU"}
"""Providers whose grouped attention was tried with heads of many widths."""
_NEVER_ZERO: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_GEMMAS - {"GemmaForCausalLM"}, ("final_logit_softcapping",)),
    "Gemma2ForCausalLM": ("attn_logit_softcapping", "final_logit_softcapping"),
    "GraniteForCausalLM": ("attention_multiplier",),
    "GraniteMoeHybridForCausalLM": ("attention_multiplier",),
}
_NO_ROPE_INTERVAL = 4  # SmolLM3Config's
_GRANITE_EXPERTS = 8  # GraniteMoeHybridConfig's, where config.json does not say 0
_GPT_OSS_ROPE = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
"""GptOssConfig's, where config.json has none."""


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
    return (
        _both_ways(text)
        or _own_layers(text)
        or _family(name, config, text, precision)
        or _setting(name, text)
        or _layers(name, text)
        or _rope(name, text)
        or _heads(name, text, precision, provider)
        or _target(text, precision, provider)
    )


def adapter_lost(name: str) -> Refusal | None:
    """Why the builder merges no adapter into this architecture, or None.

    `make matrix` merges one into every other family.
    """
    if name not in _QWEN_3_5 | {"Mistral3ForConditionalGeneration"}:
        return None
    return Refusal(
        f"the locked model builder does not merge an adapter into {name}",
        "it makes another model without a word",
        "merge the adapter with peft (merge_and_unload), and build the folder that this saves",
    )


def beyond(name: str, config: dict[str, Any], context: int) -> Refusal | None:
    """Why the builder's model is another one beyond some position, or None.

    Args:
        context: the longest context that is served, in tokens; 0 is the model's own.
    """
    text = language_part(config)
    _, rope = rotary(text)
    original = rope.get("original_max_position_embeddings") or 0
    longest = text.get("max_position_embeddings") or 0
    longest = min(context, longest) if context else longest
    scaled = name == "Mistral3ForConditionalGeneration" and text.get("model_type") == "ministral3"
    if not scaled or not rope.get("llama_4_scaling_beta") or not original < longest:
        return None
    return Refusal(
        f"the locked model builder makes this Ministral for its first {original} tokens alone",
        "beyond them transformers scales the queries (llama_4_scaling_beta), and it does not",
        f"build it with --context {original}",
    )


def _both_ways(text: dict[str, Any]) -> Refusal | None:
    """transformers masks the text behind a token for every family, unless `is_causal` is off."""
    if text.get("is_causal", True):
        return None
    return Refusal(
        "this model is not one that writes: each token looks at those behind it, too",
        f"is_causal is {text['is_causal']!r}, which the model builder does not read",
        "take the model that it was made from; or the config.json that belongs to the weights",
    )


def _own_layers(text: dict[str, Any]) -> Refusal | None:
    """Settings of single layers, which transformers has for every family."""
    if not text.get("per_layer_config"):
        return None
    return Refusal(
        "config.json gives layers settings of their own",
        "they are in per_layer_config, which the model builder does not read",
        "take a model whose layers are equal",
    )


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
        # transformers sets the second name of layer_types last
        kinds = text.get("layers_block_type") or text.get("layer_types") or ["mamba"]
        mamba = set(kinds) - {"attention", "full_attention"}
        if mamba or text.get("num_local_experts", _GRANITE_EXPERTS) != 0:
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
    if name == "SmolLM3ForCausalLM" and not all(_rotating(text)):
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
    return None


def _rotating(text: dict[str, Any]) -> list[int]:
    """SmolLM3: for each layer, whether it rotates positions."""
    given: list[int] | None = text.get("no_rope_layers")
    every = text.get("no_rope_layer_interval") or _NO_ROPE_INTERVAL
    return given or [int((i + 1) % every > 0) for i in range(text.get("num_hidden_layers") or 0)]


def _setting(name: str, text: dict[str, Any]) -> Refusal | None:
    """A setting that transformers reads and the builder does not."""
    ignored = {
        "qk_layernorm": name == "PhiForCausalLM",
        "conv_bias": name in _LFM2 | {_LFM2_AUDIO},
        "mlp_bias": name == "NemotronForCausalLM",
        "use_bidirectional_attention": name in _GEMMAS,
    }
    for key, reads in ignored.items():
        if reads and text.get(key):
            return _ignored(name, key, text[key])
    if name == "Lfm2MoeForCausalLM" and text.get("norm_topk_prob", True) is not True:
        return _ignored(name, "norm_topk_prob", text["norm_topk_prob"])
    for key in _NEVER_ZERO.get(name, ()):
        if text.get(key) == 0:
            return Refusal(
                f"{key} of config.json is 0",
                "transformers computes with that 0, and the runtime takes it for no setting",
                "take the config.json of the original model",
            )
    if name.startswith("Granite") and text.get("logits_scaling") == 0:
        return Refusal(
            "logits_scaling of config.json is 0",
            "the logits are divided by it",
            "take the config.json of the original model",
        )
    alpha = text.get("swiglu_alpha", _SWIGLU_ALPHA)
    if name == "GptOssForCausalLM" and alpha != _SWIGLU_ALPHA:
        return _ignored(name, "swiglu_alpha", alpha)
    if name == "GraniteMoeHybridForCausalLM" and text.get("position_embedding_type") != "rope":
        return Refusal(
            "the locked model builder makes hybrid Granites with rotary positions alone",
            f"position_embedding_type is {text.get('position_embedding_type')!r}, and it would "
            "rotate all the same",
            "take a Granite 3 (GraniteForCausalLM)",
        )
    return _activation(name, text)


def _ignored(name: str, key: str, value: object) -> Refusal:
    return Refusal(
        f"the locked model builder does not read {key} of {name}",
        f"it is {value!r}, and the model would silently be another one",
        "take a model of that family without it, or another family",
    )


def _activation(name: str, text: dict[str, Any]) -> Refusal | None:
    key = "hidden_activation" if name in _SECOND_GEMMAS else "hidden_act"
    given = text.get(key)
    if given is None or name in _OWN_ACTIVATION:
        return None
    known = {"silu", "swish"} if name in _QWEN_3_5 else _ACTIVATIONS
    if given in known:
        return None
    return Refusal(
        f"the model builder does not do the activation {given} for {name}",
        f"it does {', '.join(sorted(known))}",
        "take another model of that size",
    )


def _layers(name: str, text: dict[str, Any]) -> Refusal | None:
    kinds = text.get("layer_types") or []
    turns = ["sliding_attention", "full_attention"]
    if name == "GptOssForCausalLM" and any(
        kind != turns[i % 2] for i, kind in enumerate(kinds)
    ):  # fmt: skip
        return Refusal(
            "the locked model builder gives every second layer of a gpt-oss its window",
            "layer_types has another order, which it does not read",
            "take the original one, openai/gpt-oss-20b",
        )
    off = name in SWITCHED and not text.get("use_sliding_window")
    given = text.get("sliding_window", 1)
    slides = WINDOWS.get(name) and (not kinds or "sliding_attention" in kinds) and not off
    if given == 0 and (slides or name in WINDOWED):
        return Refusal(
            "config.json has a sliding window of 0 tokens",
            "with it a token would not even look at itself",
            "take the config.json of the original model",
        )
    if "sliding_attention" in kinds and (off or given is None):
        return Refusal(
            "config.json has layers with a sliding window and no window",
            "use_sliding_window is off" if off else "sliding_window is null",
            "take the config.json of the original model",
        )
    return None


def _heads(name: str, text: dict[str, Any], precision: str, provider: str) -> Refusal | None:
    """Heads of a width that the runtime's attention, for CPUs or for CUDA, does not take."""
    head = head_width(name, text)
    if (precision, provider) == ("fp16", "cpu") or provider not in _ATTENDING or not head:
        return None
    step = _SEPARATE_WIDTH if name in _SEPARATE else _WIDTH
    wide = 0 if name in _SEPARATE else rotated(name, text)
    if head % step == 0 and wide % step == 0:
        return None
    part = f" and rotates {wide} of them" if wide not in (0, head) else ""
    return Refusal(
        f"the runtime does not attend with heads of {head} values{part}",
        f"on {_ATTENDING[provider]} it takes multiples of {step}",
        "take a model with other heads",
    )


def _rope(name: str, text: dict[str, Any]) -> Refusal | None:
    _, rope = rotary(text)
    style = rope_type(rope)
    if name == "GptOssForCausalLM" and not rope and text.get("rope_parameters") is None:
        text = {**text, "rope_parameters": _GPT_OSS_ROPE}
        style = "yarn"
    if style == "dynamic" and name == "HunYuanDenseV1ForCausalLM" and not rope.get("alpha"):
        return Refusal(
            "the model builder does dynamic RoPE of a HunYuan by its alpha alone",
            "config.json gives no alpha",
            "take the config.json of the original model",
        )
    if style in _OWN.get(name, _ANY):
        return defect(name, text)
    return Refusal(
        f"the model builder does not do RoPE scaling of type {style or 'default'} for {name}",
        "it would silently leave the scaling out"
        if name in LLAMAS or name == "HunYuanDenseV1ForCausalLM"
        else "it stops at that setting",
        "take the model it was extended from, or another family",
    )
