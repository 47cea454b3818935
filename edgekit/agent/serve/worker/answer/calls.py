"""Reads tool calls in an answer, and the readers that one answer has."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from edgekit.agent.serve.pipe import Start
from edgekit.agent.serve.worker.answer.pieces import AnswerPiece, Chain, TextReader
from edgekit.agent.serve.worker.answer.text import Tokenizer
from edgekit.agent.serve.worker.answer.thinking import ThinkingReader, opens_thinking
from edgekit.core.chat.thinking import Marks
from edgekit.core.chat.tools.formats import Calling
from edgekit.core.chat.tools.reading import CallReader, Found

ID_CHARACTERS = 9  # letters and digits: Mistral's templates take no other ids


class CallPieces:
    """Reads tool calls; all else stays text."""

    def __init__(self, calling: Calling) -> None:
        self._reader = CallReader(calling, _new_id)
        self.shown: Sequence[str] = calling.shown

    @property
    def ended(self) -> bool:
        """Whether the answer has all the calls that it may have."""
        return self._reader.ended

    def push(self, text: str) -> AnswerPiece:
        """Add text; return what is certain by now."""
        return _piece(self._reader.push(text))

    def flush(self) -> AnswerPiece:
        """Return what is still held, once the model has ended."""
        return _piece(self._reader.flush())


def reader_of(
    start: Start, prompt: Sequence[int], tokenizer: Tokenizer, marks: Marks | None
) -> TextReader | None:
    """Return what takes an answer's text apart; None where all of it is text.

    An answer that a grammar binds has no thinking: no grammar lets the marks' tokens through.

    Args:
        start: the prompt.
        prompt: its tokens.
        tokenizer: of the model.
        marks: around the model's thinking; None if it has none.
    """
    calls = CallPieces(start.calling) if start.calling else None
    if marks is None or start.constraint is not None:
        return calls
    thinking = ThinkingReader(marks, opens_thinking(tokenizer, marks, prompt))
    return thinking if calls is None else Chain(thinking, calls)


def _piece(found: Found) -> AnswerPiece:
    text, calls = found
    return AnswerPiece(text, calls=calls)


def _new_id() -> str:
    return secrets.token_hex(ID_CHARACTERS)[:ID_CHARACTERS]
