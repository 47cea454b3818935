"""Checkpoints that are quantised already, and whether the builder reads them right. Pure.

The locked builder reads one layout of each method, and looks at few of the keys that name another
one. Each refusal was observed with onnxruntime-genai 0.18.0 on a tiny Llama: without it the model
is another one, and no gate says so, because the locked transformers does not load such a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.builder.support.change import Refusal

# Both the builder and transformers read these formats; loading a model with another one fails.
_CHECKPOINTS = frozenset({"awq", "gptq", "olive", "quark", "quant_auto"})
_CUDA_CHECKPOINTS = frozenset({"modelopt", "compressed-tensors"})
# The builder ignores the quantization_config of these and quantises anew what the locked
# transformers loads, which needs packages of their own for all other methods.
_REQUANTISED = {
    "GptOssForCausalLM": frozenset({"mxfp4", "fp8"}),
    "Mistral3ForConditionalGeneration": frozenset({"mxfp4", "fp8"}),
}
_ORIGINAL = "take the original model, before it was quantised"
_FORMATS = ("checkpoint_format", "format", "packing_format")
"""What GPTQModel and AutoRound have called the layout of a GPTQ checkpoint."""
_GPTQ_NAMES = frozenset({"gptq", "auto_gptq", "auto_round:gptq", "auto_round:auto_gptq"})
_AWQ_FORMATS = ("version", "format", "checkpoint_format")
_AWQ_NAMES = frozenset({"gemm"})
_BITS = {"gptq": frozenset({2, 4, 8}), "awq": frozenset({4})}
"""Widths that the builder's loaders unpack."""


def unreadable_checkpoint(name: str, config: Mapping[str, Any], provider: str) -> Refusal | None:
    """Why the builder cannot read the quantised weights of a config.json, or None.

    Args:
        name: the architecture.
        config: a configuration that passed `check_config`.
        provider: the builder's `-e`.
    """
    if (config.get("text_config") or {}).get("quantization_config"):
        return Refusal(
            "config.json says within text_config how the weights are quantised",
            "transformers looks for quantization_config beside text_config, the model builder in "
            "both places",
            _ORIGINAL,
        )
    given = config.get("quantization_config")
    if not isinstance(given, dict):
        return None
    method = str(given.get("quant_method", ""))
    if name in _REQUANTISED and (name, method) != ("GptOssForCausalLM", "quark"):
        return None if method in _REQUANTISED[name] else _unread(method, _REQUANTISED[name])
    if method in _CHECKPOINTS:
        return _other_layout(method, given)
    if method in _CUDA_CHECKPOINTS:
        if provider == "cuda":
            return None
        return Refusal(
            f"checkpoints quantised with {method} are built for CUDA alone",
            f"-e is {provider}",
            _ORIGINAL,
        )
    return _unread(method, _CHECKPOINTS)


def _unread(method: str, read: frozenset[str]) -> Refusal:
    return Refusal(
        f"the model builder cannot read checkpoints quantised with {method or 'no named method'}",
        f"it reads {', '.join(sorted(read))}",
        _ORIGINAL,
    )


def reordered(name: str) -> Refusal:
    """The refusal of a GPTQ matrix whose columns are in groups by importance.

    Args:
        name: of the tensor that says so, or of the key of quantization_config.
    """
    return Refusal(
        "the model builder does not make GPTQ models with activation order",
        f"{name} says that a group's columns do not lie side by side, and the runtime would give "
        "them the scales of other groups",
        f"take a GPTQ checkpoint without it (desc_act false), an AWQ one; or {_ORIGINAL}",
    )


def second_format(name: str) -> Refusal:
    """The refusal of a GPTQ checkpoint of the second format that does not say so.

    Args:
        name: of a tensor of zero points.
    """
    return Refusal(
        "the zero points of this GPTQ checkpoint are those of the layout gptq_v2",
        f"{name} and all others are the middle of the range, which the layout gptq stores one "
        "lower; config.json does not name gptq_v2, and the builder would add one",
        f"convert the checkpoint to gptq, or {_ORIGINAL}",
    )


def _other_layout(method: str, given: Mapping[str, Any]) -> Refusal | None:
    if method not in _BITS:
        return None
    if (bits := given.get("bits")) is not None and bits not in _BITS[method]:
        return Refusal(
            f"the model builder does not unpack {method.upper()} weights of {bits} bits",
            f"it does {', '.join(map(str, sorted(_BITS[method])))}",
            _ORIGINAL,
        )
    if (pack := given.get("pack_dtype") or "int32") != "int32":
        return _layout(method.upper(), "pack_dtype", pack, "int32")
    return _awq_layout(given) if method == "awq" else _gptq_layout(given)


def _awq_layout(given: Mapping[str, Any]) -> Refusal | None:
    for key in _AWQ_FORMATS:
        if (layout := given.get(key)) and str(layout).lower() not in _AWQ_NAMES:
            return _layout("AWQ", key, layout, "gemm")
    if str(backend := given.get("backend")).lower() == "llm-awq":  # the layout of that library
        return _layout("AWQ", "backend", backend, "gemm")
    dynamic = given.get("dynamic") or {}
    if any(not str(pattern).startswith("-:") for pattern in dynamic):
        return Refusal(
            "the model builder reads all AWQ matrices by the same settings",
            "dynamic of quantization_config gives some of them others, which it does not look at",
            _ORIGINAL,
        )
    return None


def _gptq_layout(given: Mapping[str, Any]) -> Refusal | None:
    meta = given.get("meta")
    for part in (given, meta if isinstance(meta, dict) else {}):
        for key in _FORMATS:
            if (layout := part.get(key)) and str(layout).lower() not in _GPTQ_NAMES:
                # GPTQ's first format stores zero points one lower; the second one as they are
                return _layout("GPTQ", key, layout, "gptq")
        for key, value in part.items():
            if key.startswith("is_") and key.endswith("_format") and value:
                return _layout("GPTQ", key, value, "gptq")
    # the builder hands every g_idx to the runtime then, which is wrong even where none reorders
    return reordered("desc_act") if given.get("desc_act") else None


def _layout(method: str, key: str, value: object, read: str) -> Refusal:
    return Refusal(
        f"the model builder reads {method} weights of the layout {read} alone",
        f"{key} of quantization_config is {value!r}, which it does not look at",
        f"convert the checkpoint to {read}, or {_ORIGINAL}",
    )
