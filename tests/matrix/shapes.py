"""The architectures of the matrix in other shapes, as data."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.matrix.families import PLAIN, Family


class Shape(msgspec.Struct, frozen=True):
    """Dimensions of a model; the rotary settings that depend on them follow.

    Attributes:
        root: hidden size of the Gemmas, a square: their builder rounds its root to two decimals.
        window: of the families that have one, in tokens.
    """

    label: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    root: int
    window: int


SHAPES = (
    Shape("wide heads", 192, 320, 2, 2, 96, 64, 16),
    Shape("one KV head", 256, 448, 4, 1, 64, 576, 128),
)
_REFUSED = frozenset(
    {
        "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration", "OlmoForCausalLM",
    }
)  # fmt: skip


def shaped(family: Family, shape: Shape) -> Family:
    """The family in another shape."""
    values = family.values
    inner = values.get("text_config")
    text = _shaped(inner or values, shape, family.architecture)
    if inner:
        sight = dict(values["vision_config"])
        if "out_hidden_size" in sight:
            sight["out_hidden_size"] = text["hidden_size"]
        text = {**values, "text_config": text, "vision_config": sight}
    # without `edit`: those keys of config.json belong to the one shape
    return Family(f"{family.architecture} ({shape.label})", family.config, text, note=family.note)


def _shaped(text: dict[str, Any], shape: Shape, name: str) -> dict[str, Any]:
    made = {
        **text,
        "hidden_size": shape.root if name.startswith("Gemma") else shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
    }
    if "head_dim" in text:
        made["head_dim"] = shape.head
    if "shared_intermediate_size" in text:
        made["shared_intermediate_size"] = shape.intermediate
    if text.get("sliding_window") is not None:
        made["sliding_window"] = shape.window
    if "query_pre_attn_scalar" in text:
        made["query_pre_attn_scalar"] = shape.head
    if sections := (text.get("rope_parameters") or {}).get("mrope_section"):
        part = text["rope_parameters"].get("partial_rotary_factor", 1.0)
        rest = int(shape.head * part) // 2 - 2 * (int(shape.head * part) // 6)
        parts = [rest, *[int(shape.head * part) // 6] * (len(sections) - 1)]
        made["rope_parameters"] = {**text["rope_parameters"], "mrope_section": parts}
    return made


def _first(families: tuple[Family, ...]) -> list[Family]:
    """One family of each architecture that is built; SmolLM3 with rotary positions everywhere."""
    found: dict[str, Family] = {}
    for family in families:
        refused = family.architecture in _REFUSED or family.values.get("no_rope_layers") == [1, 0]
        if family.config and not (refused or family.pictures):
            found.setdefault(family.architecture, family)
    return list(found.values())


FIRST = _first(PLAIN)
"""One family of each architecture that is built."""
FAMILIES: tuple[Family, ...] = tuple(
    each
    for family in PLAIN
    for each in (
        family,
        *(shaped(family, shape) for shape in SHAPES if family in FIRST),
    )
)
"""Every case, the shapes of a family behind its first one."""
