"""How much the gate measures: the amounts of text, by the size of the source."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from edgekit.builder.inside.gate.duration import Amounts
from edgekit.errors import EdgekitError

SMALL_PARAMETERS = 1_000_000_000
"""A source with more weights only reads the text: it is not held in float32 as a whole."""

LONG_TOKENS_OF_LARGE = 260
"""The long text for a source that only reads: it takes a sixth of the time of the others."""


class Effort(msgspec.Struct, frozen=True):
    """The amount of text to measure on; it bounds the gate's time.

    Attributes:
        prompts: number of prompts of the shipped set; each is continued once.
        tokens: most tokens that are written and scored per prompt.
        greedy: number of prompts that are continued greedily, to look for loops.
        greedy_tokens: most tokens per greedy continuation.
        long: tokens of the text that looks far back; the part of its length that a window may have
            without notice is 27/32.
    """

    prompts: int = 16
    tokens: int = 80
    greedy: int = 12
    greedy_tokens: int = 128
    long: int = 640


def count_parameters(source: Path) -> int:
    """Number of elements of all tensors of a folder, from its safetensors headers.

    Raises:
        EdgekitError: there are no weights, or a header is damaged.
    """
    total = 0
    for path in sorted(source.glob("*.safetensors")):
        with path.open("rb") as file:
            try:
                header = msgspec.json.decode(
                    file.read(int.from_bytes(file.read(8), "little")),
                    type=dict[str, dict[str, Any]],
                )
            except msgspec.MsgspecError as error:
                raise EdgekitError(f"{path.name} is damaged", why=str(error)) from error
        for name, tensor in header.items():
            if name != "__metadata__":
                total += math.prod(tensor["shape"])
    if not total:
        raise EdgekitError(
            "the gate found no weights to compare the model with",
            why=f"no .safetensors files in {source.name}",
        )
    return total


def amounts(source: Path, parameters: int, effort: Effort, *, by_layer: bool) -> Amounts:
    """The work of a gate on this source.

    Args:
        parameters: of the source.
        by_layer: the loss of each layer is measured, too.
    """
    config = msgspec.json.decode((source / "config.json").read_bytes(), type=dict[str, Any])
    text = config.get("text_config") or config
    return amounts_of(
        effort, parameters, int(text.get("vocab_size") or 0), int(text.get("hidden_size") or 0),
        int(text.get("num_hidden_layers") or 1), by_layer=by_layer,
    )  # fmt: skip


def amounts_of(
    effort: Effort, parameters: int, vocabulary: int, hidden: int, layers: int, *, by_layer: bool
) -> Amounts:
    """The same for a source of this shape."""
    large = parameters > SMALL_PARAMETERS
    return Amounts(
        parameters=parameters,
        vocabulary=vocabulary,
        hidden=hidden,
        layers=layers,
        texts=effort.prompts,
        tokens=effort.tokens,
        greedy=effort.greedy,
        greedy_tokens=effort.greedy_tokens,
        long=min(LONG_TOKENS_OF_LARGE, effort.long) if large else effort.long,
        by_layer=by_layer and not large,
    )
