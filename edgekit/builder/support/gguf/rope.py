"""The rotary settings of a GGUF header as `rope_parameters` of config.json. Pure.

llama.cpp keeps the scaling of Llama 3 as one factor per frequency (`rope_freqs`), LongRoPE as two
lists of factors (`rope_factors_*`), and linear scaling and YaRN as metadata. transformers 5.23
reads none of them.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from edgekit.builder.support.gguf.header import ROTARY
from edgekit.builder.support.gguf.keys import HeaderKeys

_FREQUENCIES, _LONG, _SHORT = ROTARY
_THETA = 10_000.0  # llama.cpp's, where the header is silent
_CLOSE = 1e-4  # the factors are float32
_LLAMA_3 = (1.0, 4.0, 8192)


class _Rotary(msgspec.Struct, frozen=True):
    """What a header says about the rotary embedding.

    Attributes:
        theta: base of the frequencies.
        rotated: dimensions of a head that are rotated.
        context: `max_position_embeddings`.
        kind: type of scaling, `none` where there is none.
        factor: of the scaling.
        original: context before the scaling, in tokens.
        attention: factor of queries and keys; 1 where the header is silent.
    """

    theta: float
    rotated: int
    context: int
    kind: str
    factor: float
    original: int | None
    attention: float


def rope_of(keys: HeaderKeys, rotated: int, context: int) -> dict[str, Any]:
    """The settings of a model's rotary embedding.

    Args:
        keys: the header's keys; those of the rotary embedding are taken.
        rotated: dimensions of a head that are rotated.
        context: `max_position_embeddings`.

    Raises:
        UsageError: config.json cannot say what the header says.
    """
    keys.take("rope.scaling.finetuned")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    said = _Rotary(
        theta=keys.real("rope.freq_base", _THETA),
        rotated=rotated,
        context=context,
        # llama.cpp takes a factor without a type for linear scaling
        kind=str(keys.take("rope.scaling.type", "none" if factor == 1 else "linear")),
        factor=factor,
        original=int(keys.real("rope.scaling.original_context_length", 0)) or None,
        attention=keys.real("rope.scaling.attn_factor", 1.0),
    )
    found = {"rope_type": "default", "rope_theta": said.theta} | _scaling(keys, said)
    if said.attention != 1 and found["rope_type"] != "longrope":
        raise keys.refusal("rope.scaling.attn_factor", "transformers has no such factor here")
    return found


def _scaling(keys: HeaderKeys, said: _Rotary) -> dict[str, Any]:
    vectors = keys.header.vectors
    if _LONG in vectors or _SHORT in vectors:
        return _longrope(keys, said)
    if _FREQUENCIES in vectors:
        return _llama3(keys, said)
    if said.kind == "none" or (said.kind == "linear" and said.factor == 1):
        return {}
    if said.kind == "linear":
        return {"rope_type": "linear", "factor": said.factor}
    if said.kind == "yarn":
        return _yarn(keys, said)
    raise keys.refusal("rope.scaling.type", f"{said.kind} is not carried over")


def _yarn(keys: HeaderKeys, said: _Rotary) -> dict[str, Any]:
    betas = {
        name: value
        for name in ("beta_fast", "beta_slow")
        if (value := keys.real(f"rope.scaling.yarn_{name}", 0))
    }
    return {
        "rope_type": "yarn",
        "factor": said.factor,
        "original_max_position_embeddings": said.original or said.context,
        **betas,
    }


def _longrope(keys: HeaderKeys, said: _Rotary) -> dict[str, Any]:
    name = keys.header.name
    vectors = {key: keys.header.vectors.get(key, ()) for key in (_LONG, _SHORT)}
    if wrong := next((k for k, v in vectors.items() if len(v) != said.rotated // 2), None):
        raise keys.contradiction(
            f"{name} has {len(vectors[wrong])} values in {wrong}",
            f"a head of {said.rotated} rotated dimensions needs {said.rotated // 2}",
        )
    other = said.factor != 1 or _FREQUENCIES in keys.tensors
    if other or said.kind not in ("none", "longrope"):
        raise keys.refusal("rope.scaling.type", "another scaling stands beside that of LongRoPE")
    if not said.original:
        raise keys.refusal(
            "rope.scaling.original_context_length", "LongRoPE needs it, and it is missing"
        )
    longer = said.context / said.original
    scaled = longer > 1 and said.original > 1
    expected = math.sqrt(1 + math.log(longer) / math.log(said.original)) if scaled else 1.0
    if said.attention != 1 and not math.isclose(said.attention, expected, rel_tol=_CLOSE):
        raise keys.refusal(
            "rope.scaling.attn_factor",
            f"it is {said.attention}, and {expected:.6g} follows from the lengths",
        )
    return {
        "rope_type": "longrope",
        "original_max_position_embeddings": said.original,
        "short_factor": list(vectors[_SHORT]),
        "long_factor": list(vectors[_LONG]),
    }


def _llama3(keys: HeaderKeys, said: _Rotary) -> dict[str, Any]:
    """The four settings of Llama 3's scaling, which the header holds as factors only."""
    factors = keys.header.vectors[_FREQUENCIES]
    if len(factors) != said.rotated // 2:
        raise keys.contradiction(
            f"{keys.header.name} has {len(factors)} values in {_FREQUENCIES}",
            f"a head of {said.rotated} rotated dimensions needs {said.rotated // 2}",
        )
    if said.kind != "none":
        raise keys.refusal("rope.scaling.type", f"{said.kind} stands beside {_FREQUENCIES}")
    if all(factor == 1 for factor in factors):
        return {}
    lengths = [2 * math.pi * said.theta ** (2 * i / said.rotated) for i in range(len(factors))]
    factor = max(factors)
    for low, high, original in [_LLAMA_3, *_solved(factors, lengths, factor)]:
        made = [_factor(length, factor, low, high, original) for length in lengths]
        if all(math.isclose(*pair, rel_tol=_CLOSE) for pair in zip(made, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise keys.refusal(_FREQUENCIES, "its factors are not those of Llama 3's RoPE scaling")


def _solved(
    factors: tuple[float, ...], lengths: list[float], factor: float
) -> list[tuple[float, float, int]]:
    """Llama 3's settings from two factors of the transition, if there are two.

    Between the borders, (1/f - 1/factor) / (1 - 1/factor) is a straight line over 1/wavelength.
    Only the quotients of the settings matter; low_freq_factor is set to 1.
    """
    middle = [
        (1 / length, (1 / each - 1 / factor) / (1 - 1 / factor))
        for each, length in zip(factors, lengths, strict=True)
        if 1 < each < factor
    ]
    if len(middle) < 2 or middle[0][0] == middle[-1][0]:
        return []
    (x, y), (other_x, other_y) = middle[0], middle[-1]
    slope = (y - other_y) / (x - other_x)
    start = y - slope * x
    if start >= 0:
        return []
    return [(1.0, round(1 - 1 / start, 4), round(-slope / start))]


def _factor(length: float, factor: float, low: float, high: float, original: int) -> float:
    """The factor of a wavelength (`_compute_llama3_parameters` of transformers)."""
    if length < original / high:
        return 1.0
    if length > original / low:
        return factor
    smooth = (original / length - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
