"""What an answer is made of: text, thinking and tool calls. Pure.

A `TextReader` takes apart what the model writes. A plain answer has none: it is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from edgekit.core.chat.calls import ToolCallDelta
from edgekit.core.chat.logprobs import TokenLogprob


class AnswerPiece(msgspec.Struct, frozen=True):
    """A piece of an answer; each part may be empty."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[TokenLogprob] = ()  # of its tokens, where they are asked for

    def __bool__(self) -> bool:
        """Whether anything is in it."""
        return bool(self.text or self.reasoning or self.calls or self.logprobs)


class TextReader(Protocol):
    """Takes the text of an answer apart, as it comes."""

    @property
    def ended(self) -> bool:
        """Whether nothing that could follow belongs to the answer."""
        ...

    @property
    def shown(self) -> Sequence[str]:
        """The texts of special tokens that it reads."""
        ...

    def push(self, text: str) -> AnswerPiece:
        """Add text; return what is certain by now."""
        ...

    def flush(self) -> AnswerPiece:
        """Return what is still held, once the model has ended."""
        ...


class Chain:
    """Reads with one reader what another one leaves as text."""

    def __init__(self, first: TextReader, second: TextReader) -> None:
        self._first = first
        self._second = second

    @property
    def ended(self) -> bool:
        """Whether nothing that could follow belongs to the answer."""
        return self._first.ended or self._second.ended

    @property
    def shown(self) -> Sequence[str]:
        """The texts of special tokens that they read."""
        return [*self._first.shown, *self._second.shown]

    def push(self, text: str) -> AnswerPiece:
        """Add text; return what is certain by now."""
        piece = self._first.push(text)
        return whole([msgspec.structs.replace(piece, text=""), self._second.push(piece.text)])

    def flush(self) -> AnswerPiece:
        """Return what is still held, once the model has ended."""
        piece = self._first.flush()
        rest = self._second.push(piece.text) if piece.text else AnswerPiece()
        return whole([msgspec.structs.replace(piece, text=""), rest, self._second.flush()])


def whole(pieces: Iterable[AnswerPiece]) -> AnswerPiece:
    """Return the pieces as one."""
    pieces = list(pieces)
    return AnswerPiece(
        "".join(piece.text for piece in pieces),
        "".join(piece.reasoning for piece in pieces),
        [call for piece in pieces for call in piece.calls],
        [each for piece in pieces for each in piece.logprobs],
    )
