"""Whether the weights and the adapter are those of the model, by the headers of their files."""

from __future__ import annotations

import array
import math
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edgekit.builder.source.adapter import read_adapter
from edgekit.builder.source.safetensors import StoredTensor
from edgekit.builder.source.values import same_values
from edgekit.builder.support.adapter import no_adapter_for, wrong_adapter
from edgekit.builder.support.change import Mend
from edgekit.builder.support.families import is_tied, tied_by_class, tying
from edgekit.builder.support.limits import Refusal
from edgekit.builder.support.packed import reordered, second_format
from edgekit.builder.support.weights import (
    Shapes,
    embedding_and_head,
    head_lookalike,
    lost_by_type,
    no_text_part,
    too_many_layers,
    without_values,
    wrong_weights,
)

_MIDDLES = [{word - 2**32} for word in (0xAAAAAAAA, 0x88888888, 0x80808080)]
"""Words of the middle of the range alone, of 2, 4 and 8 bits, as an int32 reads them."""


def unsound(
    config: Mapping[str, Any], shapes: Shapes, given: Mapping[str, str], *, listed: bool = True
) -> Refusal | None:
    """Why a build of these tensors would be wrong, or None; of the weight files only the headers.

    Args:
        config: a configuration that passed `check_config`.
        shapes: tensor -> shape, of the model.
        given: the builder's options.
        listed: the tensors are those that transformers will find; not so for a GGUF file.

    Raises:
        UsageError: the adapter of the options cannot be read.
    """
    found = (
        too_many_layers(config, int(given.get("num_hidden_layers", 0)))
        or (wrong_weights(config, shapes) if listed else None)
        or without_values(shapes)
        or head_lookalike(config, shapes)
    )
    if found is None and (adapter := given.get("adapter_path")):
        settings, tensors = read_adapter(Path(adapter).expanduser())
        theirs = {name: tensor.shape for name, tensor in tensors.items()}
        found = no_adapter_for(config) or wrong_adapter(settings, theirs, shapes, listed=listed)
    return found or no_text_part(config)


def two_heads(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Refusal | None:
    """Refuse a head of its own where config.json says that it is the embedding.

    transformers takes the head of the file then, the builder makes one of the two do for both.
    """
    names = None if tied_by_class(config) else _other_head(config, tensors)
    if names is None:
        return None
    keys = tying(config)
    return Refusal(
        f"{names[1]} is not the embedding, as config.json says",
        f"by {keys}, and the two have different values; the builder would take one for the other, "
        "where transformers takes the file's",
        f"set {keys} to false in config.json to build the model that transformers loads; or "
        f"remove {names[1]} if the embedding is the right head",
    )


def own_head(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Mend | None:
    """The change for a head of its own where only the class says that it is the embedding.

    As in Mistral Small 3.1, whose config.json is silent. transformers takes the head of the file;
    the builder asks the class alone, and would make one of the two do for both.
    """
    if not tied_by_class(config) or _other_head(config, tensors) is None:
        return None
    return Mend(
        {"tie_word_embeddings": False}, "its head is a matrix of its own, which the builder is told"
    )


def _other_head(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> tuple[str, str] | None:
    """Embedding and head, where they are to be one matrix and are not."""
    names = embedding_and_head(tensors) if is_tied(config) else None
    if names is None:
        return None
    embedding, head = (tensors[name] for name in names)
    same = embedding.shape == head.shape and same_values(
        (embedding.place, embedding.dtype), (head.place, head.dtype)
    )
    return None if same else names


def wrong_values(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Refusal | None:
    """Why the values of these tensors make another model than transformers', or None."""
    return two_heads(config, tensors) or _moved_columns(tensors) or _other_zeros(config, tensors)


def _moved_columns(tensors: Mapping[str, StoredTensor]) -> Refusal | None:
    """Refuse a GPTQ matrix whose groups are not those of neighbouring columns.

    The builder looks at `desc_act` of config.json alone, which tools also write as false for a
    matrix with such groups.
    """
    for name, tensor in sorted(tensors.items()):
        scales = tensors.get(name.removesuffix("g_idx") + "scales")
        if not name.endswith(".g_idx") or scales is None or not scales.shape[0]:
            continue
        groups = _int32(tensor)
        wide = -(-len(groups) // scales.shape[0])
        if any(group != column // wide for column, group in enumerate(groups)):
            return reordered(name)
    return None


def _other_zeros(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Refusal | None:
    """Refuse the zero points of GPTQ's second format, where config.json does not name it.

    Symmetric weights have the middle of the range, such as 8 of 16, which the first format stores
    as 7. An asymmetric checkpoint does not have one zero point in every group of every matrix.
    """
    given = config.get("quantization_config")
    if not isinstance(given, dict) or given.get("quant_method") != "gptq":
        return None
    zeros = sorted(name for name in tensors if name.endswith(".qzeros"))
    same = all(set(_int32(tensors[name])) in _MIDDLES for name in zeros)
    return second_format(zeros[0]) if zeros and same else None


def _int32(tensor: StoredTensor) -> array.array[int]:
    """The values of a tensor; none where it has another type."""
    values = array.array("i")
    if tensor.dtype == "I32":
        with tensor.place.file.open("rb") as file:
            file.seek(tensor.place.begin)
            values.frombytes(file.read(tensor.place.end - tensor.place.begin))
    if sys.byteorder == "big":
        values.byteswap()
    return values


class Typed(Protocol):
    """A tensor whose type and shape are known."""

    @property
    def dtype(self) -> str:
        """safetensors type name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""


def type_note(config: Mapping[str, Any], tensors: Mapping[str, Typed]) -> tuple[str, ...]:
    """A note for the user where the builder rounds the weights as it reads them."""
    stored: Counter[str] = Counter()
    for tensor in tensors.values():
        stored[tensor.dtype] += math.prod(tensor.shape)
    note = lost_by_type(config, stored)
    return (note,) if note else ()
