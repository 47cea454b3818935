"""Texts of an answer: the interface of a tokenizer, and stop strings in what it streams.

`edgekit.tokens` has the tokenizers of real models.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from edgekit.tokens.conversation import Turn
from edgekit.tokens.template import NOTHING, Value


class TextStream(Protocol):
    """Turns tokens into text piece by piece."""

    def decode(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """Return the whole characters of what is still held, once the model has ended."""
        ...


class Tokenizer(Protocol):
    """Chat template, encoding and streaming decoding of one model."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    def encode_chat(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[int]:
        """Apply the chat template to messages, tools and options; return the prompt's tokens.

        Raises:
            EdgekitError: the template or the tokenizer refuses the messages.
        """
        ...

    def encode_around(
        self, turns: Sequence[Turn], tools: Sequence[Value] = (), options: Value = NOTHING
    ) -> list[list[int]]:
        """Return the tokens before, between and behind the pictures of a prompt.

        Raises:
            EdgekitError: as `encode_chat`.
        """
        ...

    @property
    def template_texts(self) -> Collection[str]:
        """The strings of the chat template."""
        ...

    @property
    def template_options(self) -> Sequence[str]:
        """The variables of the chat template that a caller may set."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text of the template's."""
        ...

    def end_of(self, tokens: Sequence[int]) -> str:
        """Return the text of the last tokens, special ones and all."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token stands for, which may be a part of a character."""
        ...

    def stream(self, shown: Collection[str] = ()) -> TextStream:
        """Return a new stream, which shows the special tokens with these texts."""
        ...


def role_of(turn: Turn) -> str:
    """Return the role of a message."""
    return str(turn[0] if isinstance(turn, tuple) else turn["role"])


class StopFilter:
    """Passes text through until a stop string appears.

    The filter holds back the longest tail that could still become a stop string. So no part of a
    stop string is ever shown, and one that is split over tokens is found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add generated text; return the text that may be shown now, empty once stopped."""
        if self.stopped:
            return ""
        text = self._held + text
        found = min(
            ((at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0),
            default=None,
        )
        if found is not None:  # the one that was complete first, however tokens cut the text
            self.stopped = True
            self._held = ""
            return text[: found[1]]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text still held, when generation ends for another reason."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
