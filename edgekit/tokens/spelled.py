"""The bytes of single tokens, which may be a part of a character alone.

A tokenizer's decoder says how its words become bytes. Three ways are in use: byte-level words have
a letter for each byte (GPT-2), SentencePiece's have a sign for a space and a word like `<0x0A>` for
a byte, and all others are plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
Spell = Callable[[str], bytes]


class Spelling:
    """Says which bytes a token stands for.

    Args:
        tokenizer: the model's tokenizer.
        added: the texts of its added tokens, by id; these are plain text in every tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, added: dict[int, str]) -> None:
        self._tokenizer = tokenizer
        self._added = added
        self._spell = _spell_of(tokenizer)

    @property
    def exact(self) -> bool:
        """Whether a text's bytes are those of its tokens, joined; its first space aside."""
        return self._spell is not None

    def bytes_of(self, token: int) -> bytes:
        """Return the token's bytes; none for an id that the tokenizer does not have."""
        text = self._added.get(token)
        if text is not None and not _BYTE.match(text):
            return text.encode("utf-8", "surrogatepass")
        word = self._tokenizer.id_to_token(token)
        if word is None:  # a model's head may have more rows than the tokenizer has words
            return b""
        if self._spell is not None:
            return self._spell(word)
        return str(self._tokenizer.decode([token], skip_special_tokens=False)).encode()


def _spell_of(tokenizer: Tokenizer) -> Spell | None:
    """Return what makes bytes of a word; None if only the decoder itself can."""
    if tokenizer.decoder is None:
        return None
    steps = list(_steps(json.loads(tokenizer.decoder.__getstate__())))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        letters = _byte_letters()
        known, bytes_of = frozenset(letters), str.maketrans(letters)

        def of_letters(word: str) -> bytes:  # a word with any other sign is plain text
            if known.issuperset(word):
                return word.translate(bytes_of).encode("latin-1")
            return word.encode()

        return of_letters
    spaces = {sign for step in steps if (sign := _sign_of_a_space(step))}
    if not spaces and "ByteFallback" not in kinds:
        return None
    falls_back = "ByteFallback" in kinds

    def spell(word: str) -> bytes:
        found = _BYTE.match(word) if falls_back else None
        if found:
            return bytes([int(found[1], 16)])
        for sign in spaces:
            word = word.replace(sign, " ")
        return word.encode("utf-8", "surrogatepass")

    return spell


def _steps(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _sign_of_a_space(step: dict[str, Any]) -> str:
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    if step["type"] == "Replace" and step["content"] == " ":
        return str(step["pattern"].get("String", ""))
    return ""


def _byte_letters() -> dict[str, int]:
    """The letters of GPT-2's byte-level words: printable bytes stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): b for n, b in enumerate(others)}
