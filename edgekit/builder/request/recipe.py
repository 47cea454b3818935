"""Recipes: named ways to quantise, made of the builder's own options, and each model's default.

Pure. A recipe is a precision and a few of the builder's options, nothing more: `--recipe NAME` and
the same options spelled out make the same bytes and the same build id. `python -m benchmarks
build.recipes` measures size, speed and loss of each on SmolLM2 (docs/recipes.md).

A calibrated method would be one more recipe whose source is a checkpoint quantised beforehand: the
builder takes AWQ, GPTQ and Olive checkpoints as they are.
"""

from __future__ import annotations

import difflib
from typing import Any

import msgspec

from edgekit.builder.spec import Precision
from edgekit.builder.support.families import is_tied
from edgekit.errors import UsageError

AUTO = "auto"


class Recipe(msgspec.Struct, frozen=True):
    """A precision and options of the builder under one name.

    Attributes:
        name: the value of `--recipe`.
        what: description in one line.
        precision: the builder's `-p`.
        options: the builder's `--extra_options`.
        needs_untied: for a model with tied embeddings it makes a file that does not load
            (onnxruntime-genai 0.18.0).
    """

    name: str
    what: str
    precision: Precision
    options: dict[str, str] = {}
    needs_untied: bool = False


class Choice(msgspec.Struct, frozen=True):
    """The recipe chosen for a model, and the reason."""

    recipe: Recipe
    why: str


_LAST = "last_matmul:int8"
_MIXED = "last_matmul:int8,mixed_layers:int8"

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "plain", "symmetric int4, blocks of 32, scale by the largest weight (the builder's own)",
        "int4",
    ),
    Recipe(
        "plain-asymmetric", "int4 with zero points, blocks of 32",
        "int4", {"is_symmetric": "false"}, needs_untied=True,
    ),
    Recipe(
        "rtn", "int4, scale by 7.5 instead of 8: coarser than plain, kept for comparison",
        "int4", {"algo_config": "rtn"},
    ),
    Recipe("k-quant", "int4 with zero points, scales searched", "int4", {"algo_config": "k_quant"}),
    Recipe(
        "plain-head8", "plain, the head in int8",
        "int4", {"matmul_mixed_precision": _LAST}, needs_untied=True,
    ),
    Recipe(
        "k-quant-head8", "k-quant, the head in int8",
        "int4", {"algo_config": "k_quant", "matmul_mixed_precision": _LAST},
    ),
    Recipe(
        "plain-mixed", "plain, int8 for the head and the qkv and down projections that matter most",
        "int4", {"matmul_mixed_precision": _MIXED}, needs_untied=True,
    ),
    Recipe(
        "k-quant-mixed", "k-quant, int8 for the head and the projections that matter most",
        "int4", {"algo_config": "k_quant", "matmul_mixed_precision": _MIXED},
    ),
    Recipe("int8", "symmetric int8, blocks of 32", "int8"),
)  # fmt: skip
"""Every stock method of onnxruntime-genai 0.18.0 for weights on a CPU, smallest first."""

LADDER = ("plain", "k-quant", "k-quant-head8", "k-quant-mixed", "int8")
"""The recipes that `auto` tries, smallest first; plain-mixed and rtn are worse than a rung of the
same size."""
ADAPTER_LADDER = ("plain", "plain-head8", "plain-mixed", "int8")
"""The recipes that `auto` tries for a model with a LoRA adapter."""

_BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UsageError: there is none; the error suggests the closest name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    close = difflib.get_close_matches(name, [*_BY_NAME, AUTO], n=1)
    raise UsageError(
        f"there is no recipe {name}",
        next_step=f"did you mean {close[0]}?"
        if close
        else f"use one of {', '.join([AUTO, *_BY_NAME])}",
    )


def default_recipe(config: dict[str, Any], *, adapter: bool = False) -> Choice:
    """The recipe that a model gets when the user names none, by its config.json.

    Args:
        adapter: a LoRA adapter is merged in; k_quant cannot pack its matrices at usual ranks.

    Sources: Phi-4-mini repeats itself endlessly in pure int4 (onnxruntime-genai #1450, onnxruntime
    #24384) and is published with int8 head and down projections (olive-recipes); Llama-3.2-1B
    loses 7 % of quality with plain int4 against int8 in its sensitive parts (Olive's blog on
    quantising small models); models below 1 B lose most.
    """
    if adapter:
        return Choice(_BY_NAME["plain"], "k-quant cannot pack an adapter's narrow matrices")
    parameters = _parameters(config)
    architecture = next(iter(config.get("architectures") or ()), "")
    if architecture == "Phi3ForCausalLM" and _number(config, "vocab_size") > 150_000:
        return Choice(_BY_NAME["k-quant-mixed"], "Phi-4-mini repeats itself in pure int4")
    if architecture == "LlamaForCausalLM" and 5e8 < parameters < 2e9:
        return Choice(_BY_NAME["k-quant-mixed"], "Llamas of 1 B lose 7 % with plain int4")
    if parameters < 1e9:
        return Choice(_BY_NAME["k-quant"], "models below 1 B lose most; zero points help")
    return Choice(_BY_NAME["plain"], "the builder's default")


def ladder(config: dict[str, Any], *, adapter: bool = False) -> tuple[Recipe, ...]:
    """The rungs that `auto` tries for a model, smallest first; `adapter` as in `default_recipe`."""
    tied = is_tied(config)
    rungs = (_BY_NAME[name] for name in (ADAPTER_LADDER if adapter else LADDER))
    return tuple(recipe for recipe in rungs if not (tied and recipe.needs_untied))


def _parameters(config: dict[str, Any]) -> float:
    """Estimated number of the decoder's weights: attention and a gated MLP per layer, embedding."""
    text = config.get("text_config") or config
    hidden, layers = _number(text, "hidden_size"), _number(text, "num_hidden_layers")
    heads = max(_number(text, "num_attention_heads"), 1)
    kv_heads = _number(text, "num_key_value_heads") or heads
    attention = hidden * hidden * 2 * (1 + kv_heads / heads)
    mlp = 3 * hidden * _number(text, "intermediate_size")
    return layers * (attention + mlp) + hidden * _number(text, "vocab_size")


def _number(config: dict[str, Any], key: str) -> float:
    value = config.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
