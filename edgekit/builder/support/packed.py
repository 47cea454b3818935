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
# The builder ignores the quantization_config of these and quantises anew.
_REQUANTISED = frozenset({"GptOssForCausalLM", "Mistral3ForConditionalGeneration"})
_ORIGINAL = "take the original model, before it was quantised"
_FORMATS = ("checkpoint_format", "format")
"""What GPTQModel has called the layout of a GPTQ checkpoint."""


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
    if name in _REQUANTISED and method != "quark":
        return None
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
    return Refusal(
        f"the model builder cannot read checkpoints quantised with {method or 'no named method'}",
        f"it reads {', '.join(sorted(_CHECKPOINTS))}",
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


def _other_layout(method: str, given: Mapping[str, Any]) -> Refusal | None:
    if method == "awq" and str(version := given.get("version") or "gemm").lower() != "gemm":
        return _layout("AWQ", "version", version, "gemm")
    if method != "gptq":
        return None
    for key in _FORMATS:
        if (layout := given.get(key) or "gptq") != "gptq":
            # GPTQ's first format stores zero points one lower; the second one as they are
            return _layout("GPTQ", key, layout, "gptq")
    if given.get("is_marlin_format"):
        return _layout("GPTQ", "is_marlin_format", True, "gptq")
    # the builder hands every g_idx to the runtime then, which is wrong even where none reorders
    return reordered("desc_act") if given.get("desc_act") else None


def _layout(method: str, key: str, value: object, read: str) -> Refusal:
    return Refusal(
        f"the model builder reads {method} weights of the layout {read} alone",
        f"{key} of quantization_config is {value!r}, which it does not look at",
        f"convert the checkpoint to {read}, or {_ORIGINAL}",
    )
