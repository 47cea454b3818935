"""Rotary positions: told to the locked builder as transformers computes them, or refused. Pure.

transformers' formulas are those of `modeling_rope_utils.py` (5.23), the builder's those of
`make_mscale`, `make_inv_freq_rescaled_with_ntk` and `make_rope_init` (onnxruntime-genai 0.18.0).
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from edgekit.builder.support.change import Mend, Refusal, rope_type, rotary

LLAMAS = frozenset({"LlamaForCausalLM", "NemotronForCausalLM", "SmolLM3ForCausalLM"})
PARTIAL = frozenset(
    {
        "NemotronForCausalLM", "Phi3ForCausalLM", "PhiForCausalLM",
        "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
    }
)  # fmt: skip
"""Architectures whose heads transformers rotates in part; it rotates whole heads of all others."""
SEEING = frozenset(
    {
        "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
    }
)  # fmt: skip
"""Architectures whose positions have three axes."""
_PARTS = {"NemotronForCausalLM": 0.5, "PhiForCausalLM": 0.5} | dict.fromkeys(
    ("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"), 0.25
)
HEAD_WIDTHS = {
    "Ernie4_5ForCausalLM": 128, "Gemma2ForCausalLM": 256, "Gemma3ForCausalLM": 256,
    "Gemma3ForConditionalGeneration": 256, "GemmaForCausalLM": 256, "GptOssForCausalLM": 64,
    "Qwen3ForCausalLM": 128, "Qwen3VLForConditionalGeneration": 128,
    "Qwen3_5ForConditionalGeneration": 256, "Qwen3_5MoeForConditionalGeneration": 256,
}  # fmt: skip
"""Architectures whose class has a width of a head, where config.json leaves `head_dim` out."""
_MINISTRAL = "Mistral3ForConditionalGeneration"
_BASES = {
    "Ernie4_5ForCausalLM": 500_000.0, "GptOssForCausalLM": 150_000.0, "Lfm2ForCausalLM": 1e6,
    "Lfm2MoeForCausalLM": 1e6, "SmolLM3ForCausalLM": 2e6,
}  # fmt: skip
_BASE = 10_000.0  # of every other configuration class
PHI_CONTEXT = 4096  # both of Phi3Config's lengths
# transformers' defaults (`_compute_yarn_parameters`), after section 3.2 of arXiv 2309.00071
_BETA_FAST, _BETA_SLOW = 32.0, 1.0
_LEAST_BORDER = 1e-6  # the builder needs a value above zero
_LONGROPE_KEYS = ("short_factor", "long_factor")
_LONGROPE = frozenset({"longrope", "su"})
_NEEDED = {
    "dynamic": ("factor",), "linear": ("factor",), "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip
"""RoPE scaling -> the settings that transformers does not compute without."""


def rotated_part(name: str, text: dict[str, Any]) -> Mend | None:
    """The part of each head that the builder rotates, where transformers rotates another one.

    transformers prefers the part among the rotary settings, the builder the one beside them; and
    transformers rotates whole heads in most families.
    """
    part = "partial_rotary_factor"
    key, rope = rotary(text)
    if name in PARTIAL:
        if rope.get(part) is None or text.get(part) in (None, rope[part]):
            return None
        return Mend({part: rope[part]}, f"{part} of {key} is told, which transformers reads")
    if part in rope and rope[part] is None:
        return Mend({key: {part: None}}, f"{part} is null, and left out")
    if _part(name, text) == 1.0 or _scaled(rope):
        return None
    patch: dict[str, Any] = {"partial_rotary_factor": None}
    if "partial_rotary_factor" in rope:
        patch[key] = {"partial_rotary_factor": None}
    return Mend(patch, "partial_rotary_factor is left out: transformers does not read it here")


def sections(name: str, text: dict[str, Any]) -> Mend | None:
    """Sections of the three axes that pictures have; a text's places are equal on all of them.

    The builder rotates by another operator without them, and the runtime wants their sum to be the
    number of frequencies.
    """
    key, rope = rotary(text)
    half, given = rotated(name, text) // 2, rope.get("mrope_section")
    if name not in SEEING or _scaled(rope) or not half:
        return None
    if isinstance(given, list) and sum(each for each in given if isinstance(each, int)) == half:
        return None
    third = half // 3
    told: dict[str, Any] = {"mrope_section": [half - 2 * third, third, third]}
    return Mend(
        {key: told} if key else {"rope_parameters": {"rope_type": "default", **told}},
        f"mrope_section is told for {half} frequencies; for a text any division is the same",
    )


def linear(name: str, text: dict[str, Any]) -> Mend | None:
    """Linear scaling, for the architectures whose builder takes it as a scale of positions."""
    key, rope = rotary(text)
    factor = rope.get("factor")
    if name not in LLAMAS or rope_type(rope) != "linear" or not _positive(factor):
        return None
    gone = {"type": None, "factor": None, "original_max_position_embeddings": None}
    return Mend(
        {
            # the builder scales positions only of a model whose context was not extended
            "original_max_position_embeddings": None,
            "rope_position_scale": 1 / float(factor),
            key: {**gone, "rope_type": "default"},
        },
        f"RoPE's linear scaling by {factor:g} is told to the builder as a scale of positions",
    )


def longrope(name: str, text: dict[str, Any]) -> Mend | None:
    """LongRoPE's form and magnitude.

    transformers 5 saves `rope_type`, the builder reads `type` (onnxruntime-genai #2609). The
    builder reads `short_mscale` and `long_mscale`, transformers `attention_factor` and `factor`.
    """
    key, rope = rotary(text)
    original = _original(name, text, rope)
    longest = text.get("max_position_embeddings", PHI_CONTEXT)
    if name != "Phi3ForCausalLM" or rope_type(rope) not in _LONGROPE or not longest:
        return None
    if _no_magnitude(rope):
        return None  # refused by `defect`
    ratio = longest / original
    wanted = rope.get("attention_factor") or _su(rope.get("factor") or ratio, original)
    told = rope.get("short_mscale") or rope.get("long_mscale") or not math.isclose(
        wanted, _su(ratio, original), rel_tol=1e-9
    )  # fmt: skip
    magnitude = {"short_mscale": wanted, "long_mscale": wanted} if told else {}
    if rope.get("type") in _LONGROPE:
        if not magnitude or all(rope.get(k) == v for k, v in magnitude.items()):
            return None
        return Mend({key: magnitude}, "LongRoPE's attention factor is told under the names mscale")
    scaling = {each: rope[each] for each in _LONGROPE_KEYS if each in rope} | magnitude
    top: dict[str, Any] = {
        each: rope[each] for each in ("rope_theta", "partial_rotary_factor") if each in rope
    }
    if not text.get("original_max_position_embeddings"):
        top["original_max_position_embeddings"] = original
    return Mend(
        {"rope_parameters": None, "rope_scaling": {"type": "longrope", **scaling}, **top},
        "its LongRoPE was saved by transformers 5, the builder is given the original form",
    )


def yarn(name: str, text: dict[str, Any]) -> Mend | None:
    """YaRN's borders, written out and rounded to whole frequencies as transformers does.

    The builder does not round, but accepts any number of rotations for a border. The number whose
    exact border is the rounded one gives the same frequencies. Its `mscale` alone is the magnitude
    itself, which transformers keeps as `attention_factor` or computes.
    """
    key, rope = rotary(text)
    length = _original(name, text, rope)
    head, theta = head_width(name, text), _base(name, text)
    if rope_type(rope) != "yarn" or not (head and length and theta > 1):
        return None  # the builder itself fails on a missing setting
    patch: dict[str, Any] = {}
    factor = rope.get("factor")
    if "factor" in rope and factor is None:
        factor = patch["factor"] = (text.get("max_position_embeddings") or length) / length
    fast = float(rope.get("beta_fast") or _BETA_FAST)
    slow = float(rope.get("beta_slow") or _BETA_SLOW)
    low, high = _border(fast, head, theta, length), _border(slow, head, theta, length)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
        slow = _rotations(high, head, theta, length)
    if rope.get("truncate", True) or low <= 0:
        fast = _rotations(max(low, _LEAST_BORDER), head, theta, length)
    if (fast, slow) != (rope.get("beta_fast"), rope.get("beta_slow")):
        patch |= {"beta_fast": fast, "beta_slow": slow}
    why = "YaRN's borders are written out, rounded as transformers does"
    if _positive(factor) and not math.isclose(
        wanted := _magnitude(rope, factor), _builders(rope, factor), rel_tol=1e-9
    ):
        patch |= {"mscale": wanted, "mscale_all_dim": None}
        why += "; its attention factor is told under the name mscale"
    return Mend({key: patch}, why) if patch else None


def defect(name: str, text: dict[str, Any]) -> Refusal | None:
    """Why the builder does not rotate positions as transformers does, or None.

    Args:
        name: the architecture.
        text: the language model's part of config.json, after all mends.
    """
    _, rope = rotary(text)
    style = rope_type(rope)
    another = "take the model it was extended from, or another family"
    if name not in PARTIAL and _scaled(rope) and _part(name, text) != 1.0:
        return Refusal(
            f"transformers itself does not run {name} with this partial_rotary_factor",
            f"with RoPE scaling of type {style} it rotates a part of each head and adds the whole",
            "take a config.json without partial_rotary_factor, if the model was trained so",
        )
    missing = [key for key in _NEEDED.get(style, ()) if not _positive(rope.get(key))]
    if missing and not (style == "dynamic" and _positive(rope.get("alpha"))):
        return Refusal(
            f"config.json scales RoPE by type {style} without {missing[0]}",
            f"it is {rope.get(missing[0])!r}",
            "take the config.json of the original model",
        )
    if style in _LONGROPE and _no_magnitude(rope):
        return Refusal(
            "LongRoPE's attention factor is not above zero",
            f"it is {rope['attention_factor']:g}",
            "take the config.json of the original model",
        )
    if style in _LONGROPE and text.get("max_position_embeddings") == _original(name, text, rope):
        return Refusal(
            "the model builder does no LongRoPE of a model whose context was not extended",
            "max_position_embeddings and original_max_position_embeddings are equal",
            another,
        )
    return _yarn_defect(name, text, rope) if style == "yarn" else None


def _yarn_defect(name: str, text: dict[str, Any], rope: dict[str, Any]) -> Refusal | None:
    another = "take the model it was extended from, or another family"
    head, theta, length = head_width(name, text), _base(name, text), _original(name, text, rope)
    if _part(name, text) != 1.0:
        return Refusal(
            "the model builder does not do YaRN on a part of each head",
            f"partial_rotary_factor is {_part(name, text):g}",
            another,
        )
    if not (head and length and theta > 1):
        return None
    if not _magnitude(rope, rope["factor"]) > 0:
        return Refusal(
            "YaRN's attention factor is not above zero",
            f"it is {_magnitude(rope, rope['factor']):g}",
            "take the config.json of the original model",
        )
    low = _border(float(rope.get("beta_fast") or _BETA_FAST), head, theta, length)
    high = _border(float(rope.get("beta_slow") or _BETA_SLOW), head, theta, length)
    if not 0 < low < high < head / 2 - 1:
        return Refusal(
            "the model builder does not make YaRN with these borders",
            f"they are {low:.1f} and {high:.1f} of {head // 2} frequencies; it needs them in "
            "order, between the first and the last one",
            another,
        )
    return None


def _no_magnitude(rope: dict[str, Any]) -> bool:
    """LongRoPE's attention factor is given, and no magnitude."""
    given = rope.get("attention_factor")
    return given is not None and not given > 0


def head_width(name: str, text: dict[str, Any]) -> int:
    """Width of a head; 0 where config.json does not say. A few classes have one of their own."""
    share = (text.get("hidden_size") or 0) // (text.get("num_attention_heads") or 1)
    ministral = name == _MINISTRAL and text.get("model_type") == "ministral3"
    return int(text.get("head_dim", 128 if ministral else HEAD_WIDTHS.get(name)) or share)


def rotated(name: str, text: dict[str, Any]) -> int:
    """How many values of each head are rotated; 0 where config.json does not say."""
    part = _part(name, text) if name in PARTIAL else 1.0
    return int(head_width(name, text) * part)


def _scaled(rope: dict[str, Any]) -> bool:
    return rope_type(rope) not in ("", "default", "mrope", "axial")


def _positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _part(name: str, text: dict[str, Any]) -> float:
    """The rotated part of a head; that of the rotary settings wins over the top-level one."""
    _, rope = rotary(text)
    for each in (rope, text):
        if each.get("partial_rotary_factor") is not None:
            return float(each["partial_rotary_factor"])
    return _PARTS.get(name, 1.0)


def _original(name: str, text: dict[str, Any], rope: dict[str, Any]) -> int:
    """The context before extension; transformers prefers the top-level key.

    A Phi-3's class has that key, with a default that wins over the rotary settings, too.
    """
    key = "original_max_position_embeddings"
    if name == "Phi3ForCausalLM":
        return int(text.get(key) or PHI_CONTEXT)
    return int(text.get(key) or rope.get(key) or text.get("max_position_embeddings") or 0)


def _base(name: str, text: dict[str, Any]) -> float:
    _, rope = rotary(text)
    return float(rope.get("rope_theta") or text.get("rope_theta") or _BASES.get(name, _BASE))


def _su(factor: float, original: int) -> float:
    """LongRoPE's magnitude, by both transformers and the builder."""
    grown = factor > 1 and original > 1
    return math.sqrt(1 + math.log(factor) / math.log(original)) if grown else 1.0


def _grown(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _magnitude(rope: dict[str, Any], factor: float) -> float:
    """YaRN's magnitude by transformers."""
    given, mscale, of_all = (rope.get(k) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return float(given)
    if mscale and of_all:
        return _grown(factor, mscale) / _grown(factor, of_all)
    return _grown(factor)


def _builders(rope: dict[str, Any], factor: float) -> float:
    """YaRN's magnitude by the builder."""
    mscale, of_all = (float(rope.get(k) or 0.0) for k in ("mscale", "mscale_all_dim"))
    if mscale > 0 and of_all > 0:
        return _grown(factor, mscale) / _grown(factor, of_all)
    return mscale if mscale > 0 else _grown(factor)


def _border(rotations: float, head: int, theta: float, length: int) -> float:
    """The index of the frequency that makes this many rotations within `length` tokens."""
    return head * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def _rotations(border: float, head: int, theta: float, length: int) -> float:
    """The inverse of `_border`."""
    return float(length / (2 * math.pi * theta ** (2 * border / head)))
