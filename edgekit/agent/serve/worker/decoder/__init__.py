"""The decoder boundary between the worker and a model's runtime: tokens in, logits out.

Sampling, stop strings and scheduling are above the boundary, a runtime is below it. Only this
package imports the runtime's libraries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

# Both runtimes have an uploader that is on by default and reads this variable at import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Logits = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]


class Limits(msgspec.Struct, frozen=True):
    """What a decoder can do; lengths in tokens.

    Attributes:
        slots: how many sequences it holds side by side.
        max_length: the most tokens of a slot.
        vocabulary: every token id is below this number.
        min_slice: a slice shorter than this gives other logits than a longer one.
        can_truncate: whether a slot can be truncated to any length; if not, only to 0.
        batched: whether one `step` over several slots costs less than one step for each.
        rope_threshold: LongRoPE's rotary factors change for sequences above this length. Tokens
            computed below it are wrong above it, and the decoder does not compute them again:
            the caller empties the slot and feeds more tokens than this in one slice.
    """

    slots: int
    max_length: int
    vocabulary: int
    min_slice: int = 2
    can_truncate: bool = True
    batched: bool = False
    rope_threshold: int | None = None


class RuntimeOptions(msgspec.Struct, frozen=True):
    """How the runtime computes.

    Attributes:
        threads: CPU threads; 0 leaves the choice to the runtime, which takes half of the cores.
        spinning: whether a thread without work waits busily; None leaves it to the runtime.
    """

    threads: int = 0
    spinning: bool | None = None


class Vision(Protocol):
    """What a model sees: one view of a picture at a time becomes features.

    A picture's features are kept under its key, for the slot items that stand for its rows
    (`pictures.rows`). The memory for them is bounded: those that were used longest ago go first.
    """

    def look(self, view: Features) -> Features:
        """Return the features of one view alone, shape (rows of a view, hidden).

        Args:
            view: its pixels, shape (3, side, side).
        """
        ...

    def keep(self, key: int, rows: Features) -> None:
        """Keep a picture's rows, shape (rows, hidden)."""
        ...

    def keeps(self, key: int) -> bool:
        """Return whether a picture's rows are kept, and count that as a use."""
        ...


class Decoder(Protocol):
    """Slots of token sequences with their KV memory.

    A slot's *length* counts the tokens that it holds, including one chosen by `greedy`. A number
    below 0 in the place of a token is a picture's row, which `vision` keeps.
    """

    @property
    def limits(self) -> Limits:
        """The limits of this decoder."""
        ...

    @property
    def vision(self) -> Vision | None:
        """What sees pictures; None if the model takes none, or was loaded without."""
        ...

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one prefill slice; return the logits after its last token, shape (vocabulary,)."""
        ...

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token to each named slot; return each one's logits, shape (vocabulary,)."""
        ...

    def greedy(self, slot: int) -> int:
        """Append the arg-max of the slot's logits and return it.

        The token is the same as with `step` and `argmax`, but the logits never leave the runtime.
        Do not call this again after a token that ends an answer.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        ...

    def length(self, slot: int) -> int:
        """Return the number of tokens in the slot."""
        ...


class Beams(Protocol):
    """One beam search, outside the slots: it has its own KV memory."""

    def step(self) -> bool:
        """Lengthen every beam by one token; return False once the search is over."""
        ...

    def best(self) -> list[int]:
        """Return the tokens of the best answer so far, without an end-of-turn token."""
        ...


class BeamSearch(Protocol):
    """Starts beam searches."""

    def __call__(
        self, prompt: Sequence[int], beams: int, answer_limit: int, length_penalty: float
    ) -> Beams:
        """Compute the prompt in one slice and start a beam search.

        Args:
            prompt: the prompt's tokens.
            beams: how many beams, at least 2.
            answer_limit: the most tokens of the answer.
            length_penalty: scores are divided by the length raised to this exponent.
        """
        ...

    def room(self, prompt: int, answer: int) -> int:
        """Return how many beams fit into the free memory; `prompt` and `answer` are in tokens."""
        ...


def open_model(
    model_dir: Path,
    max_length: int,
    options: RuntimeOptions,
    slots: int = 0,
    batching: bool = False,
    kept_rows: int = 0,
) -> tuple[Decoder, BeamSearch | None]:
    """Load a model folder.

    Args:
        model_dir: holds `genai_config.json`, the graph and its weights.
        max_length: tokens per slot; fewer if the free memory does not hold one slot of this length
            (`memory`). The KV memory for them is touched in full.
        options: the runtime's options.
        slots: how many slots; 0 takes as many as this device's free memory allows.
        batching: compute one step for all slots if the graph allows it; without beam search.
        kept_rows: how many rows of pictures are kept. 0 leaves a vision model's pictures out, for
            callers that need its text alone.

    Raises:
        EdgekitError: the free memory does not hold the shortest slot.
    """
    # Imported on use: a caller that needs only the Protocols must not load native libraries.
    from edgekit.agent.serve.worker.decoder.generator import open_genai  # noqa: PLC0415  as above
    from edgekit.agent.serve.worker.decoder.graph import read_graph  # noqa: PLC0415  as above

    graph = read_graph(model_dir)
    if graph.embedding is not None:
        from edgekit.agent.serve.worker.decoder.pictured import open_pictured  # noqa: PLC0415  as above

        return open_pictured(graph, max_length, options, slots, kept_rows), None
    if batching and graph.takes_slots:
        from edgekit.agent.serve.worker.decoder.slots import open_slots  # noqa: PLC0415  as above

        return open_slots(graph, max_length, options, slots), None
    return open_genai(model_dir, max_length, options, slots)
