"""Streams an answer: tokens become text piece by piece."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character


class TokenStream:
    """Turns an answer's tokens into text piece by piece, without special tokens.

    Args:
        tokenizer: the model's tokenizer.
        unshown: ids of tokens that are no text.
        bytes_of: says the bytes of a token.
    """

    def __init__(
        self, tokenizer: Tokenizer, unshown: frozenset[int], bytes_of: Callable[[int], bytes]
    ) -> None:
        self._tokenizer = tokenizer
        self._unshown = unshown
        self._bytes_of = bytes_of
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

        A token may have some characters and the beginning of another one. The library holds the
        sign for such a beginning back, also where the model itself has written that sign.
        """
        if not self._held:  # some decoders make no text of nothing, and end the process
            return ""
        text: str = self._tokenizer.decode(self._held, skip_special_tokens=False)
        spelled = b"".join(map(self._bytes_of, self._held))
        self._held.clear()
        whole = text.rstrip(_BROKEN)
        signs = 0
        while spelled.endswith(_BROKEN.encode()):
            spelled = spelled.removesuffix(_BROKEN.encode())
            signs += 1
        return whole + _BROKEN * min(signs, len(text) - len(whole))
