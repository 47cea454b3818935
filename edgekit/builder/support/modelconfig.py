"""Checks the types of those fields of an untrusted config.json that edgekit reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from edgekit.errors import UsageError

# A model of 10^12 weights has dimensions of about 10^5; a larger one is a mistake or an attack.
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
_Layers = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
_Number = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
_Rope = dict[str, Any]


class _Fields(msgspec.Struct):
    """The fields that edgekit reads; all others are ignored."""

    architectures: list[str] | None = None
    text_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    layer_types: list[str] | None = None
    no_rope_layers: list[int] | None = None
    tie_word_embeddings: bool | None = None
    partial_rotary_factor: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    hidden_size: _Count | None = None
    num_hidden_layers: _Layers | None = None
    num_attention_heads: _Count | None = None
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    vocab_size: _Count | None = None
    max_position_embeddings: _Count | None = None
    num_local_experts: _Count | None = None
    num_experts_per_tok: _Count | None = None
    moe_intermediate_size: _Count | None = None
    sliding_window: _Count | None = None
    original_max_position_embeddings: _Count | None = None
    rope_theta: _Positive | None = None
    rope_local_base_freq: _Positive | None = None
    rms_norm_eps: _Number | None = None
    layer_norm_eps: _Number | None = None
    norm_eps: _Number | None = None
    swiglu_alpha: _Number | None = None
    compression_ratio: _Number | None = None
    no_rope_layer_interval: _Count | None = None
    hidden_act: str | None = None
    hidden_activation: str | None = None
    use_sliding_window: bool | None = None
    model_type: str | None = None


class _Rotary(msgspec.Struct):
    """The inner fields of `rope_parameters` and `rope_scaling`."""

    rope_type: str | None = None
    type: str | None = None
    original_max_position_embeddings: _Count | None = None
    partial_rotary_factor: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    rope_theta: _Positive | None = None
    beta_fast: _Positive | None = None
    beta_slow: _Positive | None = None
    factor: _Positive | None = None
    alpha: _Positive | None = None
    attention_factor: _Number | None = None
    mscale: _Number | None = None
    mscale_all_dim: _Number | None = None
    short_mscale: _Number | None = None
    long_mscale: _Number | None = None
    low_freq_factor: _Positive | None = None
    high_freq_factor: _Positive | None = None


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a config.json with a field of a wrong type or out of range.

    Raises:
        UsageError: names the field.
    """
    try:
        fields = msgspec.convert(dict(config), _Fields)
        for rope in (fields.rope_parameters, fields.rope_scaling):
            msgspec.convert(rope or {}, _Rotary)
        if fields.text_config:
            check_config(fields.text_config)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UsageError(
            "config.json is not that of a model",
            why=str(error),
            next_step="take the config.json of the original model",
        ) from error


def language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the language model; in a multimodal config, `text_config` over the rest."""
    inner = config.get("text_config") or {}
    return {**config, **{key: value for key, value in inner.items() if key != "architectures"}}


def architecture_of(config: Mapping[str, Any]) -> str:
    """`architectures[0]`, or an empty string."""
    return next(iter(config.get("architectures") or ()), "")
