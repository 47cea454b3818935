"""What is wrong with the tensors of a checkpoint. Pure.

For the families of `families.py` every tensor is compared by name and shape. For the others only
what every model has is looked for here; the build itself refuses the rest by transformers' loading
report (`inside/common/loading.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.builder.support.families import (
    EMBEDDING,
    HEAD,
    expected_tensors,
    is_tied,
    says_tied,
    text_says_tied,
)
from edgekit.builder.support.leftovers import is_leftover
from edgekit.builder.support.limits import Refusal
from edgekit.builder.support.modelconfig import architecture_of, language_part

Shapes = Mapping[str, tuple[int, ...]]

PACKED = ("qweight", "scales")
"""Names that a matrix of an AWQ, GPTQ or Olive checkpoint has in place of `weight`."""
_PACKED_METHODS = frozenset({"awq", "gptq", "olive"})
QUANTISED_MODULES = _PACKED_METHODS | {"quark", "quant_auto"}
"""The builder reads these by a loader of its own (`QuantModel`), not by transformers."""
_TABLE = re.compile(r"(^|\.)(embed_tokens|word_embeddings|tok_embeddings)\.weight$")
_HEADS = re.compile(r"(^|\.)(lm_head|output_layer)\.weight$|^output\.weight$")
_LAYER = re.compile(r"^(.*\blayers\.)(\d+)\.(.+)$")
_MATRIX = 2  # dimensions
_SHOWN = 3


def quantised_by(config: Mapping[str, Any]) -> str:
    """The method of a quantised checkpoint, or an empty string."""
    given = config.get("quantization_config")
    return str(given.get("quant_method") or "unnamed") if isinstance(given, dict) else ""


def wrong_weights(config: Mapping[str, Any], shapes: Shapes) -> Refusal | None:
    """Why these tensors are not those of this config.json, or None.

    Args:
        config: a configuration that passed `check_config`.
        shapes: tensor -> shape, of all weight files.
    """
    wanted = expected_tensors(config)
    quantised = quantised_by(config)
    if quantised and quantised not in _PACKED_METHODS:
        return None
    if wanted is None:
        return None if quantised else _essentials(config, shapes)
    present = {name.removeprefix("model."): name for name in shapes}
    lost = [name for name in wanted if name not in present]
    if is_tied(config) and HEAD in present and lost[:1] == [EMBEDDING]:
        lost = lost[1:]  # transformers ties to the one that is there
    if quantised:
        lost = [each for name in lost for each in _without_packed(name, present)]
    if lost:
        return _missing([_spelled(name) for name in lost], config)
    if quantised:  # the builder reads these by a loader of its own, which knows more names
        return None
    for name, shape in wanted.items():
        given = shapes[present[name]] if name in present else None
        if given is not None and shape is not None and given != shape:
            return _mismatched(present[name], given, shape)
    foreign = [full for name, full in present.items() if name not in wanted and name != HEAD]
    return _unexpected([name for name in foreign if not is_leftover(name)], config)


def without_values(shapes: Shapes) -> Refusal | None:
    """Refuse a matrix that holds no values: one of its dimensions is 0."""
    for name, shape in sorted(shapes.items()):
        if 0 in shape and name.endswith(".weight") and not is_leftover(name):
            return Refusal(
                f"{name} holds no values",
                f"it is {_times(shape)} by the header of its weight file",
                "download the model again; or save it again if a tool of your own wrote the file",
            )
    return None


def no_text_part(config: Mapping[str, Any]) -> Refusal | None:
    """Refuse a language part beside `text_config`, of a class that does not look there.

    transformers would make a model of the size that the class has, of tens of gigabytes.
    """
    name = architecture_of(config)
    if name not in _IN_TEXT_CONFIG or config.get("text_config"):
        return None
    return Refusal(
        f"config.json of {name} has no text_config",
        "transformers does not read the settings of the language model beside it",
        "take the config.json of the original model",
    )


def _essentials(config: Mapping[str, Any], shapes: Shapes) -> Refusal | None:
    """The first and the last matrix, where the family's other tensors are not known."""
    heads = any(_HEADS.search(name) for name in shapes)
    if not any(_TABLE.search(name) for name in shapes) and not (heads and is_tied(config)):
        return _missing(["model.embed_tokens.weight"], config)
    if not heads and (refusal := _without_head(config)):
        return refusal
    lost = _uneven_layers(shapes)
    return _missing(lost, config) if lost else None


def _without_head(config: Mapping[str, Any]) -> Refusal | None:
    """Whether the head may be missing: it is the embedding, or not of a class that is known here.

    Of a Qwen 3.5 builder and gate load the text part by itself, which is tied by its own key.
    """
    if architecture_of(config) in _ALONE:
        if text_says_tied(config) and says_tied(config) is not False:
            return None
        if is_tied(config):
            return Refusal(
                "config.json ties the head to the embedding beside text_config alone",
                f"the checkpoint has no {HEAD}, and the model builder loads the text part by "
                "itself, which is not tied by its own settings",
                "set tie_word_embeddings to true within text_config, too",
            )
        return _missing([HEAD], config)
    untied = says_tied(config) is False or (config.get("text_config") and not is_tied(config))
    return _missing([HEAD], config) if untied else None


def _uneven_layers(shapes: Shapes) -> list[str]:
    """Tensors that a layer lacks and another one has, which has all of its others.

    Layers of two kinds, such as convolution and attention, have each what the other lacks.
    """
    stacks: dict[str, dict[str, set[str]]] = {}
    for name in shapes:
        if (match := _LAYER.match(name)) and not is_leftover(name):
            stacks.setdefault(match[1], {}).setdefault(match[2], set()).add(match[3])
    lost = []
    for stack, layers in stacks.items():
        kinds = sorted(map(frozenset, layers.values()), key=len, reverse=True)
        for index, own in layers.items():
            whole = next((kind for kind in kinds if own < kind), own)
            lost += [f"{stack}{index}.{rest}" for rest in sorted(whole - own)]
    return sorted(lost)


def _without_packed(name: str, present: Mapping[str, str]) -> list[str]:
    """What is missing of a matrix that may be quantised."""
    parts = [name.removesuffix("weight") + part for part in PACKED]
    lost = [part for part in parts if part not in present]
    return [name] if len(lost) == len(parts) or not name.endswith(".weight") else lost


def _spelled(name: str) -> str:
    return name if name.startswith(HEAD.partition(".")[0]) else f"model.{name}"


def _missing(names: list[str], config: Mapping[str, Any]) -> Refusal:
    if names == [HEAD]:
        return Refusal(
            f"the checkpoint lacks {HEAD}",
            "by config.json the head is not the embedding (tie_word_embeddings)",
            "download the model again; or set tie_word_embeddings to true in config.json, "
            f"if the original says so{_beside(config)}",
        )
    number = f"{len(names)} tensors: " if len(names) > 1 else ""
    return Refusal(
        f"the checkpoint lacks {number}{few(names)}",
        f"{architecture_of(config)} has it by its config.json, and random values would stand in",
        "download the model again, or take the config.json that belongs to these weights",
    )


def _mismatched(name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> Refusal:
    return Refusal(
        f"{name} has another shape than config.json says",
        f"it is {_times(given)}, config.json makes it {_times(wanted)}",
        "take the config.json that belongs to these weights, or download the model again",
    )


def _unexpected(names: list[str], config: Mapping[str, Any]) -> Refusal | None:
    if not names:
        return None
    number = f"{len(names)} tensors" if len(names) > 1 else "a tensor"
    return Refusal(
        f"the checkpoint has {number} without a place in the model: {few(names)}",
        f"{architecture_of(config)} has no such tensor by its config.json; it would be left out",
        "take the config.json that belongs to these weights, or download the model again",
    )


def too_many_layers(config: Mapping[str, Any], asked: int) -> Refusal | None:
    """Refuse more layers than the model has; the builder would fill them with random values.

    Args:
        asked: the option num_hidden_layers; 0 where it is not given.
    """
    text = language_part(config)
    there = text.get("num_hidden_layers") or text.get("num_layers") or text.get("n_layer")
    if not isinstance(there, int) or asked <= there:
        return None
    return Refusal(
        f"the model has {there} layers, the extra option num_hidden_layers asks for {asked}",
        "the builder would fill the others with random values",
        f"give {there} at most, or leave the option out",
    )


def head_lookalike(config: Mapping[str, Any], shapes: Shapes) -> Refusal | None:
    """Refuse a matrix that the builder would take for the head: one with a row for each token.

    `has_lm_head` of base.py looks at the number of rows alone, and goes through all modules. The
    modules of a quantised checkpoint are others, which it does not compare.
    """
    if quantised_by(config) in QUANTISED_MODULES:
        return None
    vocabulary = language_part(config).get("vocab_size")
    for name, shape in sorted(shapes.items()):
        if len(shape) != _MATRIX or shape[0] != vocabulary or not name.endswith(".weight"):
            continue
        if _HEADS.search(name) or _TABLE.search(name):
            continue
        return Refusal(
            f"the model builder would take {name} for the model's head",
            f"it has {vocabulary} rows, as many as the vocabulary has tokens, "
            "and the builder looks at nothing else",
            "take another size of this model; or add rows to embedding and head "
            "(resize_token_embeddings with pad_to_multiple_of) and raise vocab_size",
        )
    return None


def embedding_and_head(names: Iterable[str]) -> tuple[str, str] | None:
    """The names of embedding and head, where a checkpoint has one of each."""
    listed = sorted(names)
    tables = [name for name in listed if _TABLE.search(name)]
    heads = [name for name in listed if _HEADS.search(name)]
    return (tables[0], heads[0]) if len(tables) == len(heads) == 1 else None


def lost_by_type(config: Mapping[str, Any], dtypes: Mapping[str, int]) -> str:
    """A note where the builder reads the weights as another type than they are stored in; or "".

    Args:
        dtypes: safetensors type name -> number of elements stored in it.
    """
    named = _named_type(config)
    exact = _HOLDS.get(named)
    if config.get("quantization_config"):
        return ""
    kinds = sorted(_FLOATS & dtypes.keys())
    if not named and len(kinds) > 1:
        return (
            f"the weights are {' and '.join(kinds)}, and config.json names no dtype: the model "
            "builder reads all of them as the first one's type"
        )
    if exact is None:
        return ""
    odd = {kind: dtypes[kind] for kind in kinds if dtypes[kind] and kind not in exact}
    if not odd:
        return ""
    share = sum(odd.values()) / sum(dtypes.values())
    return (
        f"{_percent(share)} of the weights are {' and '.join(sorted(odd))}, "
        f"config.json says {named}: "
        f"the model builder reads them rounded to {named}, also for fp32"
    )


def _named_type(config: Mapping[str, Any]) -> str:
    """The type as which the builder reads the weights; empty where config.json names none."""
    # of a Qwen 3.5 it loads the text part by itself, of all others the whole model
    alone = config.get("text_config") if architecture_of(config) in _ALONE else None
    part = alone or config
    return str(part.get("dtype") or part.get("torch_dtype") or "").removeprefix("torch.")


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= _LEAST_SHARE else "a few"


def _beside(config: Mapping[str, Any]) -> str:
    if not config.get("text_config"):
        return ""
    return ", beside text_config" + (" and in it" if architecture_of(config) in _ALONE else "")


_IN_TEXT_CONFIG = frozenset(
    {
        "Lfm2VlForConditionalGeneration", "Mistral3ForConditionalGeneration",
        "Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    }
)  # fmt: skip
"""A Qwen2.5-VL's settings may be beside `text_config`, too."""
_ALONE = frozenset({"Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"})
_LEAST_SHARE = 0.01
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_HOLDS = {
    "float64": _FLOATS,
    "float32": _FLOATS - {"F64"},
    "bfloat16": frozenset({"BF16"}),
    "float16": frozenset({"F16"}),
}


def few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
