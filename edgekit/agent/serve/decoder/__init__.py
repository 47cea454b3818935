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
    """What a decoder can do; lengths in tokens."""

    slots: int
    max_length: int
    min_slice: int = 2
    can_truncate: bool = True


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


def open_model(model_dir: Path, max_length: int, threads: int) -> tuple[Decoder, Tokenizer]:
    """Load a model folder.

    Args:
        model_dir: holds `genai_config.json`, the graph, its weights and the tokenizer.
        max_length: tokens per slot; the KV memory for them is touched in full.
        threads: CPU threads of the runtime.
    """
    # Imported on use: the native libraries are not wanted where only the Protocols are.
    from edgekit.agent.serve.decoder.generator import open_genai  # noqa: PLC0415

    return open_genai(model_dir, max_length, threads)
