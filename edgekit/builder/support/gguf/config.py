"""The config.json that a GGUF header describes, for the families that transformers reads. Pure.

transformers 5.23 reads a part of the header, and takes its own defaults for the rest. Therefore the
whole configuration is made here: each key is carried over, is known to change nothing, or is
refused by name. What a key means is llama.cpp's (`convert_hf_to_gguf.py`, `llama-hparams.h`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from edgekit.builder.support.gguf.header import GgufHeader
from edgekit.builder.support.gguf.keys import INSTEAD, HeaderKeys
from edgekit.builder.support.gguf.rope import rope_of
from edgekit.errors import UsageError

_RMS = "attention.layer_norm_rms_epsilon"
_GEMMA_2_WINDOW, _GEMMA_2_CAPS = 4096, (50.0, 30.0)  # llama.cpp's, where the header is silent
_LOCAL_THETA = 10_000.0
# The 27 B models scale by the width of a share of the embedding; llama.cpp knows them by this.
_GEMMA_2_LARGEST, _GEMMA_3_LARGEST = 46, 62
_OTHER = {
    "adapter": "a LoRA adapter",
    "mmproj": "the vision or audio part of a model",
    "imatrix": "statistics for a quantisation",
    "vocab": "a vocabulary without weights",
}


class _Family(msgspec.Struct, frozen=True):
    """An architecture of llama.cpp.

    Attributes:
        architecture, model_type: of config.json.
        own: the keys of this family alone, as fields of config.json. It gets the keys, and the
            fields that were made before.
        epsilon: key of the header, and field of config.json.
        partial: a share of each head can be rotated.
        freqs: can have `rope_freqs`.
        longrope: can have `rope_factors_*`.
    """

    architecture: str
    model_type: str
    own: Callable[[HeaderKeys, dict[str, Any]], dict[str, Any]]
    epsilon: tuple[str, str] = (_RMS, "rms_norm_eps")
    partial: bool = False
    freqs: bool = False
    longrope: bool = False


def chooses(config: dict[str, Any]) -> dict[str, Any]:
    """What of a GGUF file's configuration has a part in the choice of recipes: tied or not."""
    return {"tie_word_embeddings": config["tie_word_embeddings"]}


def config_of(header: GgufHeader) -> dict[str, Any]:
    """config.json of the model in a GGUF file.

    Raises:
        UsageError: the header has a key that cannot be carried over, or contradicts itself, or is
            not that of a language model that can be built.
    """
    family = _family(header)
    keys = HeaderKeys(header, header.values["general.architecture"])
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "max_position_embeddings": keys.number("context_length"),
        "hidden_size": keys.number("embedding_length"),
        "num_hidden_layers": keys.number("block_count"),
        "intermediate_size": keys.number("feed_forward_length"),
        "num_attention_heads": keys.number("attention.head_count"),
        "tie_word_embeddings": "output.weight" not in keys.tensors,
        "vocab_size": _vocabulary(keys),
    }
    key, field = family.epsilon
    config[field] = keys.real(key, 0)
    if not config[field]:
        raise keys.refusal(key, "it is missing")
    if family.model_type == "lfm2":
        config |= _lfm2_layers(keys, config["num_hidden_layers"])
    else:
        config["num_key_value_heads"] = keys.number(
            "attention.head_count_kv", config["num_attention_heads"]
        )
    config |= _heads(keys, config, family)
    config |= family.own(keys, config)
    config |= _token_ids(header)
    keys.refuse_left()
    return config


def _family(header: GgufHeader) -> _Family:
    kind = str(header.values.get("general.type", "model"))
    name = str(header.values.get("general.architecture", ""))
    if kind != "model":
        raise UsageError(
            f"{header.name} is not a language model",
            f"it is {_OTHER.get(kind, f'of type {kind}')}",
            "give the .gguf file of the model itself",
        )
    family = _FAMILIES.get(name)
    if family is None:
        raise UsageError(
            f"{header.name} cannot be built from a GGUF file",
            f"its architecture is {name}; edgekit reads {', '.join(sorted(_FAMILIES))}"
            if name
            else "it names no general.architecture",
            INSTEAD,
        )
    return family


def _vocabulary(keys: HeaderKeys) -> int:
    rows = keys.rows("token_embd.weight")
    if rows is None:
        raise keys.contradiction(f"{keys.header.name} has no token_embd.weight", "it is needed")
    said = keys.take("vocab_size")
    if said and said != rows:
        raise keys.contradiction(
            f"{keys.header.name} contradicts itself",
            f"vocab_size is {said}, and token_embd.weight has {rows} rows",
        )
    return rows


def _heads(keys: HeaderKeys, config: dict[str, Any], family: _Family) -> dict[str, Any]:
    """The width of a head, and its rotary embedding."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    width = keys.number("attention.key_length", hidden // heads)
    for key, what in (
        ("attention.value_length", "values"),
        ("attention.key_length_swa", "keys of windowed layers"),
        ("attention.value_length_swa", "values of windowed layers"),
    ):
        if (other := keys.take(key, width)) != width:
            raise keys.refusal(key, f"{what} are {other} wide, and keys {width}")
    query = keys.rows("blk.0.attn_q.weight")
    if query and query != heads * width:
        raise keys.contradiction(
            f"{keys.header.name} contradicts itself",
            f"{heads} heads of {width} are {heads * width} rows, and blk.0.attn_q.weight has "
            f"{query}",
        )
    rotated = keys.number("rope.dimension_count", width)
    swa = keys.take("rope.dimension_count_swa", rotated)
    if swa != rotated or (rotated != width and not family.partial):
        raise keys.refusal(
            "rope.dimension_count", f"{rotated} of {width} dimensions of a head are rotated"
        )
    rope = rope_of(keys, rotated, config["max_position_embeddings"])
    kind = rope["rope_type"]
    if (kind == "llama3" and not family.freqs) or (kind == "longrope" and not family.longrope):
        raise keys.refusal("rope.scaling.type", f"{family.architecture} has no {kind}")
    made: dict[str, Any] = {"rope_parameters": rope}
    if kind == "longrope":
        made["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if family.partial:
        rope["partial_rotary_factor"] = made["partial_rotary_factor"] = rotated / width
    # some configurations have the field, the others take it where it is no share of the whole
    said = family.model_type in _SAY_WIDTH or heads * width != hidden
    return made | ({"head_dim": width} if said else {})


def _no_window(keys: HeaderKeys, config: dict[str, Any]) -> None:
    """Every layer of the family sees the whole text; a window has to be longer than any text."""
    window = keys.real("attention.sliding_window", math.inf)
    if window < config["max_position_embeddings"]:
        raise keys.refusal(
            "attention.sliding_window", f"{window:.0f} tokens; this architecture has no windows"
        )


def _biased(keys: HeaderKeys, part: str) -> bool:
    return f"blk.0.{part}.bias" in keys.tensors


def _llama(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(keys, config)
    return {"attention_bias": _biased(keys, "attn_q"), "mlp_bias": _biased(keys, "ffn_up")}


def _qwen2(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(keys, config)
    return {"use_sliding_window": False}


def _qwen3(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(keys, config)
    return {"attention_bias": _biased(keys, "attn_q"), "use_sliding_window": False}


def _phi3(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    rows = (heads + 2 * kv) * config.get("head_dim", config["hidden_size"] // heads)
    fused = keys.rows("blk.0.attn_qkv.weight")
    if fused and fused != rows:
        raise keys.contradiction(
            f"{keys.header.name} contradicts itself",
            f"{heads} and {kv} heads are {rows} rows, and blk.0.attn_qkv.weight has {fused}",
        )
    return {"sliding_window": int(keys.real("attention.sliding_window", 0)) or None}


def _nemotron(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(keys, config)
    return {"attention_bias": _biased(keys, "attn_q"), "mlp_bias": _biased(keys, "ffn_up")}


def _gemma2(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    attention, final = _GEMMA_2_CAPS
    return _gemma(keys, config, _GEMMA_2_LARGEST, 2) | {
        "sliding_window": keys.number("attention.sliding_window", _GEMMA_2_WINDOW),
        "attn_logit_softcapping": keys.real("attn_logit_softcapping", attention),
        "final_logit_softcapping": keys.real("final_logit_softcapping", final),
    }


def _gemma3(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    local = {
        "rope_type": "default",
        "rope_theta": keys.real("rope.freq_base_swa", _LOCAL_THETA),
    }
    return _gemma(keys, config, _GEMMA_3_LARGEST, 6) | {
        "sliding_window": keys.number("attention.sliding_window"),
        "final_logit_softcapping": keys.real("final_logit_softcapping", 0) or None,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": local,
        },
    }


def _gemma(keys: HeaderKeys, config: dict[str, Any], largest: int, pattern: int) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    given = keys.take("attention.sliding_window_pattern", pattern)
    if isinstance(given, int) and given > 0:
        given = tuple((index + 1) % given for index in range(layers))
    if not isinstance(given, tuple) or len(given) != layers:
        raise keys.refusal("attention.sliding_window_pattern", f"it is {given!r}")
    scalar = float(config["head_dim"])
    if layers == largest:
        scalar = config["hidden_size"] / config["num_attention_heads"]
    scale = keys.real("attention.scale", scalar**-0.5)
    if not math.isclose(scale**-2, round(scale**-2), rel_tol=1e-5):
        raise keys.refusal("attention.scale", f"{scale} is not 1 / √N for a whole number N")
    return {
        "layer_types": ["sliding_attention" if each else "full_attention" for each in given],
        "query_pre_attn_scalar": round(scale**-2),
        "attention_bias": _biased(keys, "attn_q"),
    }


def _lfm2_layers(keys: HeaderKeys, layers: int) -> dict[str, Any]:
    """Layers without keys and values are convolutions."""
    counts = keys.take("attention.head_count_kv")
    if not isinstance(counts, tuple) or len(set(counts) - {0}) != 1 or not _counts(counts):
        raise keys.refusal("attention.head_count_kv", f"it is {counts!r}, no list of layers")
    if len(counts) != layers:
        raise keys.refusal("attention.head_count_kv", f"it has {len(counts)} of {layers} layers")
    return {
        "num_key_value_heads": max(counts),
        "layer_types": ["full_attention" if count else "conv" for count in counts],
    }


def _counts(values: tuple[Any, ...]) -> bool:
    return all(isinstance(each, int) and each >= 0 for each in values)


def _lfm2(keys: HeaderKeys, config: dict[str, Any]) -> dict[str, Any]:
    _no_window(keys, config)
    biased = [name for name in keys.tensors if ".shortconv." in name and name.endswith(".bias")]
    return {
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": keys.number("shortconv.l_cache"),
        "conv_bias": bool(biased),
    }


def _token_ids(header: GgufHeader) -> dict[str, Any]:
    """The ids of the ends of a text; where llama.cpp knows several ends, all of them."""
    ids: dict[str, Any] = {
        key: header.values.get(f"tokenizer.ggml.{key}_token_id") for key in _ENDS + _IDS
    }
    if ids["eos"] is None:
        raise HeaderKeys(header, "tokenizer").refusal("ggml.eos_token_id", "it is missing")
    ends = list(dict.fromkeys(ids[key] for key in _ENDS if ids[key] is not None))
    return {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ids["padding"],
    }


_ENDS, _IDS = ("eos", "eot", "eom"), ("bos", "padding")
_SAY_WIDTH = frozenset({"llama", "qwen3", "nemotron", "gemma2", "gemma3_text"})
_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", "llama", _llama, freqs=True),
    "qwen2": _Family("Qwen2ForCausalLM", "qwen2", _qwen2),
    "qwen3": _Family("Qwen3ForCausalLM", "qwen3", _qwen3),
    "phi3": _Family("Phi3ForCausalLM", "phi3", _phi3, partial=True, longrope=True),
    "gemma2": _Family("Gemma2ForCausalLM", "gemma2", _gemma2),
    "gemma3": _Family("Gemma3ForCausalLM", "gemma3_text", _gemma3),
    "nemotron": _Family(
        "NemotronForCausalLM", "nemotron", _nemotron,
        ("attention.layer_norm_epsilon", "norm_eps"), partial=True,
    ),
    "lfm2": _Family("Lfm2ForCausalLM", "lfm2", _lfm2, (_RMS, "norm_eps")),
}  # fmt: skip
