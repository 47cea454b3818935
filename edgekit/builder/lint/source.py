"""Findings about a built folder that differs from its source. Pure.

`inside/compare_source.py` compares, and names each difference by a word of `_WHAT`. The chat
template, tokens and settings are transformers' own; weights are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from edgekit.builder.lint.finding import Finding, listed, refuse, warn

_WHAT = {
    "attention-settings": "attention is not computed as the source computes it",
    "bias-weights": "biases are not the source's",
    "cache-wiring": "an attention reads or writes another cache than its own",
    "chat-template": "the chat template is not the source's",
    "context-length": "the context is not as long as the source's",
    "graph-wiring": "the graph connects nodes in another way than the model builder",
    "model-settings": "the shape of the model is not the source's",
    "norm-epsilon": "norms have another epsilon than the source's",
    "norm-weights": "norms have other weights than the source's",
    "rotary-tables": "rotary tables are not transformers'",
    "search-settings": "settings of the search are not the source's",
    "token-ids": "the special tokens are not the source's",
    "token-rows": "rows of tokens are not the source's",
    "tokenizer-added-tokens": "the added tokens are not the source's",
    "tokenizer-merges": "the merges of the tokenizer are not the source's",
    "tokenizer-settings": "the tokenizer is not the source's",
    "tokenizer-words": "the vocabulary of the tokenizer is not the source's",
    "vision-graph": "the part that sees computes another thing than the source's",
    "vision-weights": "weights of the part that sees are not the source's",
    "weight-blocks": "quantised weights are not those next to the source's",
    "weight-values": "weights are not the source's",
    "weights-missing": "weights of the source are nowhere in the graph",
}
UNREADABLE = frozenset(
    {
        "graph-unreadable", "file-unreadable", "file-missing", "graph-broken", "data-outside",
        "data-length", "data-truncated", "data-overlap",
    }
)  # fmt: skip
"""Findings after which nothing is compared: the folder is not whole."""


class Difference(msgspec.Struct, frozen=True):
    """One difference.

    Attributes:
        kind: a word of `_WHAT`; the name of the finding.
        where: the file, node or tensor.
        expected, found: the source's value, and the built folder's.
    """

    kind: str
    where: str
    expected: str
    found: str


class Compared(msgspec.Struct, frozen=True):
    """The result of a comparison.

    Attributes:
        differences: at most 20 of a kind.
        counts: kind -> number of all its differences.
        compared: numbers of matrices, blocks, weights, vectors and rotary rows.
        left_out: matrices and tensors without a counterpart in the source, and areas that could not
            be compared with the reason.
        seconds: wall-clock time.
    """

    differences: tuple[Difference, ...]
    counts: dict[str, int]
    compared: dict[str, int]
    left_out: tuple[str, ...]
    seconds: float


def compared_of(result: dict[str, Any]) -> Compared:
    """The comparison from the script's result event.

    Raises:
        msgspec.ValidationError: the event has an unexpected form.
    """
    return msgspec.convert(result, Compared)


def unlike_source(compared: Compared) -> Iterator[Finding]:
    """A finding for each kind of difference, and a warning about what was left out."""
    for kind in sorted(compared.counts):
        of_kind = [one for one in compared.differences if one.kind == kind]
        first = of_kind[0]
        count = compared.counts[kind]
        unlisted = [""] * (count - len(of_kind))
        places = listed([*(one.where for one in of_kind), *unlisted])
        yield refuse(kind, _WHAT.get(kind, kind), places, first.expected, first.found)
    if compared.left_out:
        yield warn(
            "not-compared", "a part of the model was not compared with the source",
            listed(compared.left_out), "compared", "left out",
        )  # fmt: skip
