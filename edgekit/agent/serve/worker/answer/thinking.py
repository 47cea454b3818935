"""Separates a model's thinking from its answer. Pure.

Thinking is at the beginning of an answer, between the model's marks. Marks that come later are
text. The white space around thinking and before the answer goes, as it is the template's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import msgspec

from edgekit.agent.serve.worker.answer.pieces import AnswerPiece
from edgekit.agent.serve.worker.answer.text import Tokenizer, overlap
from edgekit.core.chat.thinking import Marks


def opens_thinking(tokenizer: Tokenizer, marks: Marks, prompt: Sequence[int]) -> bool:
    """Return whether a prompt ends with the mark before thinking, as its template writes it."""
    return tokenizer.end_of(prompt).rstrip().endswith(marks.begin)


class _At(Enum):
    BEGIN = auto()  # what comes may be the mark before thinking
    THINKING = auto()
    BETWEEN = auto()  # what comes may be the mark before the answer
    ANSWER = auto()
    END = auto()


class ThinkingReader:
    """Reads an answer of a model that thinks.

    Args:
        marks: of the model.
        opened: whether the prompt ends with the first mark, so that the answer begins in thinking.
    """

    def __init__(self, marks: Marks, opened: bool) -> None:
        self._marks = marks
        self._at = _At.THINKING if opened else _At.BEGIN
        self._held = ""
        self._thought = False  # some thinking was returned
        self._opening = marks.answer_begin  # the mark that may come before the answer
        self._closing = ""  # the one behind it, where there was one before it

    @property
    def ended(self) -> bool:
        """Whether the mark behind the answer has come."""
        return self._at is _At.END

    @property
    def shown(self) -> tuple[str, ...]:
        """The texts of special tokens that it reads."""
        return tuple(filter(None, msgspec.structs.astuple(self._marks)))

    def push(self, text: str) -> AnswerPiece:
        """Add text; return what is certain by now."""
        self._held += text
        reasoning = answer = ""
        if self._at is _At.BEGIN:
            self._begin()
        if self._at is _At.THINKING:
            reasoning = self._think()
        if self._at is _At.BETWEEN:
            self._between()
        if self._at is _At.ANSWER:
            answer = self._answer()
        return AnswerPiece(answer, reasoning)

    def flush(self) -> AnswerPiece:
        """Return what is still held, once the model has ended."""
        held, self._held = self._held, ""
        if self._at is _At.THINKING:
            return AnswerPiece("", self._trimmed(held.rstrip()))
        return AnswerPiece("" if self._at is _At.END else held)

    def _begin(self) -> None:
        text, begin = self._held.lstrip(), self._marks.begin
        if text.startswith(begin):
            self._at, self._held = _At.THINKING, text[len(begin) :]
        elif not begin.startswith(text):
            self._at = _At.ANSWER

    def _think(self) -> str:
        text, end = self._held, self._marks.end
        at = text.find(end)
        if at >= 0:
            self._at, self._held = _At.BETWEEN, text[at + len(end) :]
            return self._trimmed(text[:at].rstrip())
        certain = text[: len(text) - overlap(text, end)].rstrip()
        self._held = text[len(certain) :]
        return self._trimmed(certain)

    def _trimmed(self, text: str) -> str:
        if not self._thought:
            text = text.lstrip()
            self._thought = bool(text)
        return text

    def _between(self) -> None:
        self._held = self._held.lstrip()
        opening = self._opening
        if opening and self._held.startswith(opening):
            self._held = self._held[len(opening) :].lstrip()
            self._opening, self._closing = "", self._marks.answer_end
        if self._held and not self._opening.startswith(self._held):
            self._at = _At.ANSWER

    def _answer(self) -> str:
        text, closing = self._held, self._closing
        if not closing:
            self._held = ""
            return text
        at = text.find(closing)
        if at >= 0:
            self._at, self._held = _At.END, ""
            return text[:at].rstrip()
        certain = text[: len(text) - overlap(text, closing)].rstrip()
        self._held = text[len(certain) :]
        return certain
