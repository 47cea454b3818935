"""What the worker needs of a model's tokenizer; `edgekit.tokens` has it for real models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextStream(Protocol):
    """Turns tokens into text piece by piece."""

    def decode(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        ...


class Tokenizer(Protocol):
    """Chat template, encoding and streaming decoding of one model."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Apply the chat template to (role, content) pairs; return the prompt's tokens.

        Raises:
            EdgekitError: the template or the tokenizer refuses the messages.
        """
        ...

    def stream(self) -> TextStream:
        """Return a new stream."""
        ...
