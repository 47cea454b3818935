"""Streams an answer: tokens become text piece by piece."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TokenStream:
    """Turns an answer's tokens into text piece by piece, without special tokens."""

    def __init__(self, tokenizer: Tokenizer, unshown: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._unshown = unshown
        self._stream = DecodeStream(skip_special_tokens=False)
        self._held: list[int] = []  # tokens of an incomplete character

    def decode(self, token: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        if token in self._unshown:
            return ""
        self._held.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises the bare type over bytes that are no UTF-8
            text = self._tokenizer.decode(self._held, skip_special_tokens=False)
            self._stream = DecodeStream(self._held, skip_special_tokens=False)
        if text is None:
            return ""
        self._held.clear()
        return text

    def flush(self) -> str:
        """Return the whole characters of what is held: no token follows that would complete it.

        A token may have some characters and the beginning of another one.
        """
        text: str = self._tokenizer.decode(self._held, skip_special_tokens=False)
        self._held.clear()
        return text.rstrip("\ufffd")
