"""The tensors that a checkpoint must have, by its config.json. Pure.

For the dense text families the list is complete, with shapes, as transformers 5.23 makes the model;
`tests/system/test_checkpoints.py` compares all of it with transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgekit.builder.support.modelconfig import architecture_of

_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_QKVO = (*_QKV, "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_DENSE = dict(zip((*_QKVO, *_MLP), ("QH", "KH", "KH", "HQ", "IH", "IH", "HI"), strict=True))
_NORMS = {"input_layernorm": "H", "post_attention_layernorm": "H"}
_FOUR_NORMS = {**_NORMS, "pre_feedforward_layernorm": "H", "post_feedforward_layernorm": "H"}
_HEAD_NORMS = {"self_attn.q_norm": "D", "self_attn.k_norm": "D"}
_LATE_NORMS = {"self_attn.query_layernorm": "D", "self_attn.key_layernorm": "D"}
_ALWAYS = ""


class _Family(msgspec.Struct, frozen=True):
    """The tensors of an architecture, below `model.` and of one layer.

    Attributes:
        linears: name -> rows and columns. H is the hidden size, I the MLP's width and J twice that,
            D a head's width, Q and K all heads' and all KV heads', P is Q + 2 K, V the vocabulary.
        norms: name -> width.
        biased: key of config.json, or `_ALWAYS` -> linears that have a bias if it is true.
        norm_bias: norms have a bias, also the last one.
        last: name of the norm after the last layer.
        head_bias: the head has a bias.
        tied: the value of `tie_word_embeddings` where config.json has none.
    """

    linears: dict[str, str]
    norms: dict[str, str]
    biased: Mapping[str, tuple[str, ...]] = {}
    norm_bias: bool = False
    last: str = "norm"
    head_bias: bool = False
    tied: bool = False


_BIASES = {"attention_bias": _QKVO}
_LLAMA = _Family(_DENSE, _NORMS, {"attention_bias": _QKVO, "mlp_bias": _MLP})
_PHI = {
    **dict(zip(_QKV, ("QH", "KH", "KH"), strict=True)), "self_attn.dense": "HQ",
    "mlp.fc1": "IH", "mlp.fc2": "HI",
}  # fmt: skip
_FUSED = {
    "self_attn.qkv_proj": "PH", "self_attn.o_proj": "HQ", "mlp.gate_up_proj": "JH",
    "mlp.down_proj": "HI",
}  # fmt: skip
_UNGATED = {name: dimensions for name, dimensions in _DENSE.items() if name != "mlp.gate_proj"}
FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "GraniteForCausalLM": _LLAMA,
    "SmolLM3ForCausalLM": msgspec.structs.replace(_LLAMA, tied=True),
    "MistralForCausalLM": _Family(_DENSE, _NORMS),
    "Qwen2ForCausalLM": _Family(_DENSE, _NORMS, {_ALWAYS: _QKV}),
    "Qwen3ForCausalLM": _Family(_DENSE, {**_NORMS, **_HEAD_NORMS}, _BIASES),
    "GemmaForCausalLM": _Family(_DENSE, _NORMS, _BIASES, tied=True),
    "Gemma2ForCausalLM": _Family(_DENSE, _FOUR_NORMS, _BIASES, tied=True),
    "Gemma3ForCausalLM": _Family(_DENSE, {**_FOUR_NORMS, **_HEAD_NORMS}, _BIASES, tied=True),
    "PhiForCausalLM": _Family(
        _PHI, {"input_layernorm": "H"}, {_ALWAYS: tuple(_PHI)},
        norm_bias=True, last="final_layernorm", head_bias=True,
    ),
    "Phi3ForCausalLM": _Family(_FUSED, _NORMS),
    "Ernie4_5ForCausalLM": _Family(_DENSE, _NORMS, {"use_bias": (*_QKVO, *_MLP)}, tied=True),
    "HunYuanDenseV1ForCausalLM": _Family(_DENSE, {**_NORMS, **_LATE_NORMS}, _BIASES),
    "NemotronForCausalLM": _Family(
        _UNGATED, _NORMS, {"attention_bias": _QKVO, "mlp_bias": ("mlp.up_proj", "mlp.down_proj")},
        norm_bias=True,
    ),
}  # fmt: skip
"""Architecture -> its tensors."""
_LFM2 = frozenset({"Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration"})
"""transformers prefers their `tie_embedding`."""
_TIED_WHOLE = frozenset(
    {
        "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration", "Lfm2VlForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
    }
)  # fmt: skip
"""Classes of whole models that tie where config.json says nothing beside `text_config`."""
_EITHER = "Qwen2_5_VLForConditionalGeneration"  # tied where the whole or the text part says so
# transformers' default where config.json says nothing
_TIED = {name for name, family in FAMILIES.items() if family.tied} | _LFM2 | _TIED_WHOLE
# in these the width of a head does not follow from the hidden size
_OWN_HEAD_WIDTH = ("Qwen3", "Gemma", "Ernie")
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether embedding and head are one matrix by config.json, else by its class.

    As transformers' class of the whole model has it, and the builder, which decides by the same
    attribute whether the two share a matrix.
    """
    return bool(says_tied(config)) or tied_by_class(config)


def tied_by_class(config: Mapping[str, Any]) -> bool:
    """Whether embedding and head are one matrix by the class alone; config.json is silent."""
    return says_tied(config) is None and architecture_of(config) in _TIED


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """Whether config.json says that embedding and head are one matrix; None where it is silent.

    transformers asks the whole model's key. What `text_config` says counts in one class alone.
    """
    name = architecture_of(config)
    if name == _EITHER and text_says_tied(config):
        return True
    return _first_bool(config, _tie_keys(name))


def text_says_tied(config: Mapping[str, Any]) -> bool:
    """Whether `text_config` says so, for a class that loads the text part by itself."""
    keys = _tie_keys(architecture_of(config))
    return bool(_first_bool(config.get("text_config") or {}, keys))


def tying(config: Mapping[str, Any]) -> str:
    """The keys of config.json that say so, for a sentence."""
    name, inner = architecture_of(config), config.get("text_config") or {}
    keys = _tie_keys(name)
    found = [key for key in keys if config.get(key) is True]
    found += [f"{key} of text_config" for key in keys if name == _EITHER and inner.get(key) is True]
    return " and ".join(found)


def _tie_keys(name: str) -> tuple[str, ...]:
    return ("tie_embedding", "tie_word_embeddings") if name in _LFM2 else ("tie_word_embeddings",)


def _first_bool(config: Mapping[str, Any], keys: tuple[str, ...]) -> bool | None:
    return next((given for key in keys if isinstance(given := config.get(key), bool)), None)


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None] | None:
    """Name without `model.` -> shape, of all tensors that this model has; None: not known.

    A shape is None where config.json leaves a dimension to the class. A tied head is not listed.
    """
    name = architecture_of(config)
    family = FAMILIES.get(name)
    layers = config.get("num_hidden_layers")
    if family is None or not layers:
        return None
    if config.get("qk_layernorm"):  # Phi's own; such a model is refused for it
        return None
    size = _dimensions(name, config)

    def shape(letters: str) -> tuple[int, ...] | None:
        found = tuple(each for letter in letters if (each := size[letter]))
        return found if len(found) == len(letters) else None

    found = {EMBEDDING: shape("VH"), f"{family.last}.weight": shape("H")}
    if family.norm_bias:
        found[f"{family.last}.bias"] = shape("H")
    if not is_tied(config):
        found[HEAD] = shape("VH")
    if family.head_bias:
        found["lm_head.bias"] = shape("V")
    layer = {f"{norm}.weight": shape(width) for norm, width in family.norms.items()}
    if family.norm_bias:
        layer |= {f"{norm}.bias": shape(width) for norm, width in family.norms.items()}
    layer |= {f"{linear}.weight": shape(letters) for linear, letters in family.linears.items()}
    for key, linears in family.biased.items():
        if key == _ALWAYS or config.get(key):
            layer |= {f"{linear}.bias": shape(family.linears[linear][0]) for linear in linears}
    for index in range(layers):
        found |= {f"layers.{index}.{tensor}": size for tensor, size in layer.items()}
    return found


def _dimensions(name: str, config: Mapping[str, Any]) -> dict[str, int | None]:
    def given(key: str) -> int | None:
        value = config.get(key)
        return value if isinstance(value, int) and value > 0 else None

    hidden, heads, width = given("hidden_size"), given("num_attention_heads"), given("head_dim")
    if width is None and not name.startswith(_OWN_HEAD_WIDTH) and hidden and heads:
        width = hidden // heads
    shared, inner = given("num_key_value_heads"), given("intermediate_size")
    queries = heads * width if heads and width else None
    keys = shared * width if shared and width else None
    return {
        "H": hidden, "V": given("vocab_size"), "I": inner, "J": 2 * inner if inner else None,
        "D": width, "Q": queries, "K": keys,
        "P": queries + 2 * keys if queries and keys else None,
    }  # fmt: skip
