"""Changes to config.json that make the locked builder build the model which config.json describes.

Pure. The builder reads a few settings under one name only, and ignores some that config.json leaves
to transformers' defaults. Without the change it would refuse the model, or silently build another
one. The weights are never touched, and the gate and `make matrix` compare the result with the
unchanged source. Each case was observed with onnxruntime-genai 0.18.0 and transformers 5.23
(docs/architectures.md).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

ATTRIBUTES = "edgekit_attributes"
"""A key of a mended config.json. After transformers has read the file, `inside/convert.py` sets the
values below this key as attributes of the configuration that the builder reads."""

_WINDOWED = frozenset({"MistralForCausalLM", "Phi3ForCausalLM"})
_EPSILON = {"PhiForCausalLM": "layer_norm_eps", "NemotronForCausalLM": "norm_eps"}
_DEFAULT_EPSILON = 1e-5  # of both configuration classes
_DEFAULT_THETA = 10_000.0
_GEMMA_THETA = 1_000_000.0  # Gemma3TextConfig's, for the layers with full attention
# transformers' defaults (`_compute_yarn_parameters`), after section 3.2 of arXiv 2309.00071
_BETA_FAST, _BETA_SLOW = 32.0, 1.0
_LEAST_BORDER = 1e-6  # the builder needs a value above zero
_LONGROPE_KEYS = ("short_factor", "long_factor", "short_mscale", "long_mscale", "attention_factor")
_ROPE_KEYS = ("rope_parameters", "rope_scaling")


class Mend(msgspec.Struct, frozen=True):
    """A change to config.json with its reason.

    Attributes:
        patch: JSON Merge Patch (RFC 7386).
        why: reason for the user, in one line.
    """

    patch: dict[str, Any]
    why: str


def mends(name: str, config: dict[str, Any]) -> tuple[Mend, ...]:
    """The changes that the builder needs for this model; for most models there are none.

    Args:
        name: the architecture.
        config: a configuration that passed `check_config`.
    """
    found = (
        _window(name, config), _epsilon(name, config), _longrope(name, config), _yarn(config),
        _two_ropes(name, config),
    )  # fmt: skip
    return tuple(mend for mend in found if mend)


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


def _window(name: str, config: dict[str, Any]) -> Mend | None:
    """A sliding window that transformers gives to every layer and the builder to none."""
    window, layers = config.get("sliding_window"), config.get("num_hidden_layers")
    if name not in _WINDOWED or config.get("layer_types") or not window or not layers:
        return None
    if window >= (config.get("max_position_embeddings") or math.inf):
        return None  # the window is as long as the context and never slides, as in Phi-3.5-mini
    return Mend(
        {"layer_types": ["sliding_attention"] * layers},
        f"every layer looks {window} tokens back, which the builder is told layer by layer",
    )


def _epsilon(name: str, config: dict[str, Any]) -> Mend | None:
    key = _EPSILON.get(name)
    if key is None or "rms_norm_eps" in config:
        return None
    return Mend(
        {"rms_norm_eps": config.get(key, _DEFAULT_EPSILON)},
        f"the builder reads {key} under the name rms_norm_eps",
    )


def _longrope(name: str, config: dict[str, Any]) -> Mend | None:
    """transformers 5 saves `rope_type`, the builder reads `type` (onnxruntime-genai #2609)."""
    rope = config.get("rope_parameters") or {}
    if name != "Phi3ForCausalLM" or rope.get("rope_type") != "longrope" or "type" in rope:
        return None
    scaling = {key: rope[key] for key in _LONGROPE_KEYS if key in rope}
    top = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    original = rope.get("original_max_position_embeddings")
    if original and not config.get("original_max_position_embeddings"):
        top["original_max_position_embeddings"] = original
    return Mend(
        {"rope_parameters": None, "rope_scaling": {"type": "longrope", **scaling}, **top},
        "its LongRoPE was saved by transformers 5, the builder is given the original form",
    )


def _two_ropes(name: str, config: dict[str, Any]) -> Mend | None:
    """Gemma 3's rotary bases: transformers 5 keeps them by layer type, the builder reads two keys.

    For models of 4 B and more the builder would scale both bases where the model scales one; no
    change of config.json corrects that.
    """
    if name != "Gemma3ForCausalLM" or ATTRIBUTES in config:
        return None
    ropes = config.get("rope_parameters") or {}
    wide, near = (
        each if isinstance(each := ropes.get(key), dict) else {}
        for key in ("full_attention", "sliding_attention")
    )
    scaling = wide or config.get("rope_scaling") or {}
    if (scaling.get("rope_type") or scaling.get("type") or "default") != "default":
        return None
    theta = wide.get("rope_theta") or config.get("rope_theta") or _GEMMA_THETA
    local = near.get("rope_theta") or config.get("rope_local_base_freq") or _DEFAULT_THETA
    told = {
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_local_base_freq": local,
    }
    return Mend({ATTRIBUTES: told}, "the builder is told Gemma 3's two rotary bases")


def _yarn(config: dict[str, Any]) -> Mend | None:
    """YaRN's borders, written out and rounded to whole frequencies as transformers does.

    The builder does not round, but accepts any number of rotations for a border. The number whose
    exact border is the rounded one gives the same frequencies.
    """
    key = next((key for key in _ROPE_KEYS if config.get(key)), None)
    rope = config.get(key) if key else None
    if not rope or (rope.get("rope_type") or rope.get("type")) != "yarn":
        return None
    head = config.get("head_dim") or _share(config)
    theta = rope.get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA
    length = rope.get("original_max_position_embeddings") or config.get("max_position_embeddings")
    fast = float(rope.get("beta_fast") or _BETA_FAST)
    slow = float(rope.get("beta_slow") or _BETA_SLOW)
    if key is None or not (head and length and theta > 1):
        return None  # the builder itself fails on a missing setting
    low, high = _border(fast, head, theta, length), _border(slow, head, theta, length)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
        fast = _rotations(max(low, _LEAST_BORDER), head, theta, length)
        slow = _rotations(high, head, theta, length)
    if (fast, slow) == (rope.get("beta_fast"), rope.get("beta_slow")):
        return None
    return Mend(
        {key: {"beta_fast": fast, "beta_slow": slow}},
        "YaRN's borders are written out, rounded as transformers does",
    )


def _border(rotations: float, head: int, theta: float, length: int) -> float:
    """The index of the frequency that makes this many rotations within `length` tokens."""
    return head * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def _rotations(border: float, head: int, theta: float, length: int) -> float:
    """The inverse of `_border`."""
    return float(length / (2 * math.pi * theta ** (2 * border / head)))


def _share(config: dict[str, Any]) -> int:
    """The width of a head, where config.json does not give it."""
    return int((config.get("hidden_size") or 0) // (config.get("num_attention_heads") or 1))
