"""Changes to config.json that make the locked builder build the model which config.json describes.

Pure. The builder reads a few settings under one name only, ignores some that config.json leaves to
transformers' defaults, and reads others that transformers does not. Without the change it would
refuse the model, or silently build another one. The weights are never touched, and the gate and
`make matrix` compare the result with the unchanged source. Each case was observed with
onnxruntime-genai 0.18.0 and transformers 5.23 (docs/architectures.md).
"""

from __future__ import annotations

import math
from typing import Any

from edgekit.builder.support.change import Mend, rope_type, rotary
from edgekit.builder.support.modelconfig import language_part
from edgekit.builder.support.pictures import as_text, text_name
from edgekit.builder.support.rotary import (
    PHI_CONTEXT,
    linear,
    longrope,
    rotated_part,
    sections,
    yarn,
)
from edgekit.builder.support.strays import (
    SWITCHED,
    WINDOWED,
    WINDOWS,
    misplaced,
    nulls,
    shadows,
    strays,
)

ATTRIBUTES = "edgekit_attributes"
"""A key of a mended config.json. After transformers has read the file, `inside/convert.py` sets the
values below this key as attributes of the configuration that the builder reads."""

_EPSILON = {"PhiForCausalLM": "layer_norm_eps", "NemotronForCausalLM": "norm_eps"}
_DEFAULT_EPSILON = 1e-5  # of both configuration classes
_MISTRAL_WINDOW = 4096  # MistralConfig's, where config.json does not name one
_DEFAULT_THETA = 10_000.0
_GRANITES = frozenset({"GraniteForCausalLM", "GraniteMoeHybridForCausalLM"})
_GEMMA_THETA = 1_000_000.0  # Gemma3TextConfig's, for the layers with full attention
_REMOTE = frozenset(
    {
        "ChatGLMForConditionalGeneration", "ChatGLMModel", "InternLM2ForCausalLM",
        "Phi3SmallForCausalLM", "Phi4MMForCausalLM",
        "VideoChatFlashQwenForCausalLM",
    }
)  # fmt: skip
"""Their code is in the model's repository: what it reads is not known here."""


def mends(name: str, config: dict[str, Any]) -> tuple[Mend, ...]:
    """The changes that the builder needs for this model; for most models there are none.

    Args:
        name: the architecture.
        config: a configuration that passed `check_config`.
    """
    found: list[Mend | None] = []
    if whole := as_text(config):
        name, config = text_name(name), merge_patch(config, whole.patch)
    inner = config.get("text_config")
    text = inner or config
    if name not in _REMOTE:
        found += [
            strays(name, text), misplaced(text), rotated_part(name, text), sections(name, text),
            nulls(name, text),
        ]  # fmt: skip
    found += [
        _window(name, text), _long_window(name, text), _epsilon(name, text), _context(name, text),
        longrope(name, text), linear(name, text), yarn(name, text), _multiplier(name, text),
    ]  # fmt: skip
    if inner:
        found = [Mend({"text_config": each.patch}, each.why) for each in found if each]
    found += [shadows(config), _nothing(config), _two_ropes(name, config)]
    return tuple(mend for mend in (whole, *found) if mend)


def mended(config: dict[str, Any], changes: tuple[Mend, ...]) -> dict[str, Any]:
    """The configuration with all changes applied, as the builder reads it."""
    for change in changes:
        config = merge_patch(config, change.patch)
    return config


def merge_patch(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """JSON Merge Patch of RFC 7386, section 2, for objects."""
    merged = dict(target)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = merge_patch(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def window_of(name: str, text: dict[str, Any]) -> int | None:
    """The window of an architecture that has one window for all layers; None without one."""
    default = None
    if name != "Phi3ForCausalLM" and text.get("model_type", "mistral") == "mistral":
        default = _MISTRAL_WINDOW
    window: int | None = text.get("sliding_window", default)
    if not window or window >= (text.get("max_position_embeddings") or math.inf):
        return None  # the window is as long as the context and never slides, as in Phi-3.5-mini
    return window


def _window(name: str, text: dict[str, Any]) -> Mend | None:
    """A sliding window that transformers gives to every layer and the builder to none."""
    if name not in WINDOWED:
        return None
    window, given = window_of(name, text), text.get("layer_types") or ["full_attention"]
    if window is None:
        if set(given) == {"full_attention"}:
            return None
        return Mend({"layer_types": None}, "layer_types is left out: no layer has a window")
    layers = text.get("num_hidden_layers")
    told = ["sliding_attention"] * (layers or 0)
    if not layers or given == told:
        return None
    named = {} if "sliding_window" in text else {"sliding_window": window}
    return Mend(
        {"layer_types": told, **named},
        f"every layer looks {window} tokens back, which the builder is told layer by layer",
    )


def sliding_window(name: str, config: dict[str, Any]) -> int:
    """The window of the layers that have one, in tokens, as the built model has it; else 0.

    Args:
        name: the architecture.
        config: a configuration that passed `check_config`.
    """
    name, text = text_name(name), language_part(config)
    if name in WINDOWED:
        return window_of(name, text) or 0
    if name not in WINDOWS or (name in SWITCHED and not text.get("use_sliding_window")):
        return 0
    if _nobodys(name, text):
        return 0
    window = text.get("sliding_window", WINDOWS[name])
    return min(window or 0, text.get("max_position_embeddings") or window or 0)


def _nobodys(name: str, text: dict[str, Any]) -> bool:
    """No layer has the window, as `layer_types` says or as the class completes it."""
    kinds = text.get("layer_types")
    if kinds is not None:
        return "sliding_attention" not in kinds
    if name == "SmolLM3ForCausalLM":
        return True  # of its class only the layers without rotary positions, which are refused
    if name == "Gemma3ForCausalLM":
        return bool(text.get("sliding_window_pattern") == 1)
    first, layers = text.get("max_window_layers", SWITCHED.get(name)), text.get("num_hidden_layers")
    return isinstance(first, int) and isinstance(layers, int) and first >= layers


def _long_window(name: str, text: dict[str, Any]) -> Mend | None:
    """A window beyond the context: the runtime wants a cache that holds all of it.

    A window that no layer has is taken for one of all layers, as soon as a text is longer.
    """
    longest = text.get("max_position_embeddings")
    window = text.get("sliding_window", WINDOWS.get(name))
    on = name in WINDOWS and (name not in SWITCHED or text.get("use_sliding_window"))
    if not (on and longest and window) or window == longest:
        return None
    nobodys = _nobodys(name, text)
    if window < longest and not nobodys:
        return None
    why = "no layer has it" if nobodys else "which is the whole context"
    return Mend(
        {"sliding_window": longest},
        f"the window of {window} tokens is built as {longest}: {why}",
    )


def _nothing(config: dict[str, Any]) -> Mend | None:
    """Parts of config.json that are null, which the builder takes for such parts."""
    keys = ("quantization_config", "text_config")
    patch: dict[str, Any] = {key: None for key in keys if config.get(key, 0) is None}
    found = list(patch)
    inner = config.get("text_config") or {}
    if not inner.get("quantization_config", 1):
        patch["text_config"] = {"quantization_config": None}
        found.append("quantization_config of text_config")
    if not found:
        return None
    are = "are" if len(found) > 1 else "is"
    return Mend(patch, f"{' and '.join(found)} {are} null, and left out")


def _multiplier(name: str, text: dict[str, Any]) -> Mend | None:
    """A Granite's scale of attention as a whole number, which the runtime does not load."""
    given = text.get("attention_multiplier")
    if name not in _GRANITES or not isinstance(given, int):
        return None
    return Mend(
        {"attention_multiplier": float(given)},
        "attention_multiplier is told as a number with a point, which the runtime wants",
    )


def _epsilon(name: str, text: dict[str, Any]) -> Mend | None:
    key = _EPSILON.get(name)
    if key is None or text.get("rms_norm_eps") == text.get(key, _DEFAULT_EPSILON):
        return None
    return Mend(
        {"rms_norm_eps": text.get(key, _DEFAULT_EPSILON)},
        f"the builder reads {key} under the name rms_norm_eps",
    )


def _context(name: str, text: dict[str, Any]) -> Mend | None:
    """A Phi-3 without LongRoPE: the builder looks for its factors where two lengths differ."""
    _, rope = rotary(text)
    longest = text.get("max_position_embeddings", PHI_CONTEXT)
    original = text.get("original_max_position_embeddings", PHI_CONTEXT)
    if name != "Phi3ForCausalLM" or rope_type(rope) not in ("", "default") or original == longest:
        return None
    return Mend(
        {"original_max_position_embeddings": longest},
        "original_max_position_embeddings is left out: without LongRoPE it has no meaning",
    )


def _two_ropes(name: str, config: dict[str, Any]) -> Mend | None:
    """Gemma 3's rotary bases: transformers 5 keeps them by layer type, the builder reads two keys.

    For models of 4 B and more the builder would scale both bases where the model scales one; no
    change of config.json corrects that, nor a scaling of the near one.
    """
    if name != "Gemma3ForCausalLM" or ATTRIBUTES in config:
        return None
    ropes = config.get("rope_parameters") or {}
    wide, near = (
        each if isinstance(each := ropes.get(key), dict) else {"rope_type": "default"}
        for key in ("full_attention", "sliding_attention")
    )
    wide = {**wide, **(config.get("rope_scaling") or {})}  # an older file's, or a second one
    if not {rope_type(wide), rope_type(near)} <= {"", "default"}:
        return None
    theta = wide.get("rope_theta") or config.get("rope_theta") or _GEMMA_THETA
    local = near.get("rope_theta") or config.get("rope_local_base_freq") or _DEFAULT_THETA
    told = {
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_local_base_freq": local,
    }
    return Mend({ATTRIBUTES: told}, "the builder is told Gemma 3's two rotary bases")
