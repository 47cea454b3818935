"""The boundary below which models live: tokens in, logits out.

Sampling, stop strings and scheduling sit above it, a runtime below it. The runtime's libraries are
imported nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class Limits(msgspec.Struct, frozen=True):
    """What a decoder can do; lengths in tokens.

    Attributes:
        slots: sequences it holds side by side.
        max_length: of a slot.
        vocabulary: token ids are below it.
        min_slice: a shorter slice gives other logits than a longer one.
        can_truncate: to any length; if not, only to 0.
        batched: one `step` over several slots costs less than one for each.
        rope_threshold: LongRoPE's rotary factors change for sequences above this length. What is
            computed below it is wrong above, and the decoder does not compute it again: the
            caller empties the slot and feeds more than this in one slice.
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
        threads: CPU threads; 0 leaves it to the runtime, which takes half of the cores.
        spinning: whether a thread without work waits busily; None leaves it to the runtime.
    """

    threads: int = 0
    spinning: bool | None = None


class Decoder(Protocol):
    """Slots of token sequences with their KV memory.

    A slot's *length* counts the tokens it holds, the one chosen by `greedy` included.
    """

    @property
    def limits(self) -> Limits:
        """What this decoder can do."""
        ...

    def extend(self, slot: int, tokens: Sequence[int]) -> Logits:
        """Append one prefill slice; logits after its last token, shape (vocabulary,)."""
        ...

    def step(self, tokens: Mapping[int, int]) -> dict[int, Logits]:
        """Append one token to each named slot; logits after it, shape (vocabulary,)."""
        ...

    def greedy(self, slot: int) -> int:
        """Append the arg-max of the slot's logits and return it.

        The same token as `step` and `argmax`, but the logits never leave the runtime. Not to be
        called again after a token that ends an answer.
        """
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Forget the tokens from `length` on."""
        ...

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        ...


class Beams(Protocol):
    """One beam search, apart from every slot: it has KV memory of its own."""

    def step(self) -> bool:
        """Lengthen every beam by a token; False once the search is over."""
        ...

    def best(self) -> list[int]:
        """The tokens of the best answer so far, the one that ends it left out."""
        ...


class BeamSearch(Protocol):
    """Starts beam searches."""

    def __call__(
        self, prompt: Sequence[int], beams: int, answer_limit: int, length_penalty: float
    ) -> Beams:
        """Compute the prompt, in one piece, for so many beams.

        Args:
            prompt: its tokens.
            beams: how many, at least 2.
            answer_limit: tokens of the answer at most.
            length_penalty: exponent of the length that scores are divided by.
        """
        ...

    def room(self, prompt: int, answer: int) -> int:
        """How many beams of so many tokens the free memory has room for."""
        ...


class TextStream(Protocol):
    """Turns tokens into text piece by piece."""

    def decode(self, token: int) -> str:
        """The text this token completes; empty while a character is incomplete."""
        ...


class Tokenizer(Protocol):
    """Chat template, encoding and streaming decoding of one model."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The prompt's tokens: chat template applied, ready for the answer."""
        ...

    def stream(self) -> TextStream:
        """A new stream."""
        ...


def open_model(
    model_dir: Path,
    max_length: int,
    options: RuntimeOptions,
    slots: int = 0,
    batching: bool = False,
) -> tuple[Decoder, Tokenizer, BeamSearch | None]:
    """Load a model folder.

    Args:
        model_dir: holds `genai_config.json`, the graph, its weights and the tokenizer.
        max_length: tokens per slot, fewer where the free memory holds none of so many
            (`memory`); the KV memory for them is touched in full.
        options: of the runtime.
        slots: how many; 0 takes what this device's free memory allows.
        batching: one step for all slots, where the graph allows it; without beam search.

    Raises:
        EdgekitError: the memory does not hold the shortest slot.
    """
    # Imported on use: the native libraries are not wanted where only the Protocols are.
    from edgekit.agent.serve.worker.decoder.generator import open_genai  # noqa: PLC0415  as above
    from edgekit.agent.serve.worker.decoder.graph import read_graph  # noqa: PLC0415  as above

    graph = read_graph(model_dir)
    if batching and graph.takes_slots:
        from edgekit.agent.serve.worker.decoder.slots import open_slots  # noqa: PLC0415  as above

        return *open_slots(graph, max_length, options, slots), None
    return open_genai(model_dir, max_length, options, slots)
