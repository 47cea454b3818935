"""What follows a grammar has to know of a model's tokens: their bytes, and how a piece is encoded.

A grammar goes through an answer byte by byte, so each token needs its bytes. What a grammar forces
is encoded as the tokenizer itself encodes it, but as a piece of an answer: without the space that
some tokenizers put before a text, and without what normalisers change for good (NFC, lower case),
because the grammar wants the text as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from edgekit.tokens.spelled import Spelling


class TokenTable:
    """The tokens of one model.

    Args:
        tokenizer: the model's tokenizer; the table shares its words, which take the memory.
        added: the texts of its added tokens, by id.
        size: how many tokens the table has, which may be more than the tokenizer knows.

    Attributes:
        size: as above.
        special: tokens that no text becomes: special ones, added ones in angle brackets, and ids
            that the tokenizer does not know.

    Raises:
        ValueError: the tokens have no bytes of their own, as with WordPiece, where spaces stand
            between them.
    """

    def __init__(self, tokenizer: Tokenizer, added: Mapping[int, str], size: int) -> None:
        self._spelling = Spelling(tokenizer, {})  # the decoder makes no difference of added ones
        if not self._spelling.exact:
            raise ValueError("its tokens do not say where spaces stand")
        self.size = size
        flags = tokenizer.get_added_tokens_decoder()
        named = {n for n, text in added.items() if flags[n].special or _is_tag(text)}
        others = flags.keys() - added.keys()  # anchors of the chat's encoding
        unknown = {n for n in range(size) if n in others or tokenizer.id_to_token(n) is None}
        self._unknown = frozenset(unknown)
        self.special = frozenset(named | unknown)
        # By what a decoder writes of it: a normalised token may stand for a space and its text.
        texts = {
            n: added[n] if n in named else self._spelling.bytes_of(n).decode("utf-8", "replace")
            for n in sorted(added)
        }
        self._pieces = _without_context(tokenizer)
        if added.keys() - named:  # ids are given in this order
            self._pieces.add_tokens([_plain(texts[n], flags[n], n in named) for n in texts])
            if any(self._pieces.token_to_id(texts[n]) != n for n in added.keys() - named):
                self._pieces = _without_context(tokenizer)  # the file has other ids

    def spelled(self) -> list[bytes]:
        """Return the bytes of each token; none of an id that the tokenizer does not know."""
        bytes_of, unknown = self._spelling.bytes_of, self._unknown
        return [b"" if n in unknown else bytes_of(n) for n in range(self.size)]

    def encode(self, piece: str) -> list[int]:
        """Return the tokens of a piece from within an answer, none of them special.

        They spell the piece, unless it has a character that no token has.
        """
        return list(self._pieces.encode(piece, add_special_tokens=False).ids)


def _is_tag(text: str) -> bool:
    return text.startswith("<") and text.endswith(">")


def _plain(text: str, token: AddedToken, special: bool) -> AddedToken:
    """Return the token without the white space that it would take around it."""
    flags = {"single_word": token.single_word, "normalized": token.normalized}
    return AddedToken(text, special=special, **flags)


def _without_context(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with the same words that encodes a text as a piece of a longer one."""
    pieces = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [],
                "normalizer": _of_spaces(_described(tokenizer.normalizer)),
                "pre_tokenizer": _without_prefix(_described(tokenizer.pre_tokenizer)),
                "post_processor": None,
                "decoder": None,
                "model": {"type": "BPE", "vocab": {}, "merges": []},
            }
        )
    )
    pieces.model = tokenizer.model  # shared, not copied
    pieces.encode_special_tokens = True  # special tokens' texts are text
    return pieces


def _described(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _of_spaces(normalizer: Any) -> Any:
    """Return of a normaliser the steps that write a sign for each space; decoders undo these."""
    if normalizer is None:
        return None
    if normalizer["type"] == "Sequence":
        kept = [each for step in normalizer["normalizers"] if (each := _of_spaces(step))]
        return {"type": "Sequence", "normalizers": kept}
    is_of_spaces = normalizer["type"] == "Replace" and normalizer["pattern"] == {"String": " "}
    return normalizer if is_of_spaces else None


def _without_prefix(part: Any) -> Any:
    """Return a pre-tokenizer that puts no space before a text."""
    if isinstance(part, list):
        return [_without_prefix(each) for each in part]
    if not isinstance(part, dict):
        return part
    changed = {"add_prefix_space": False, "prepend_scheme": "never"}
    return {key: _without_prefix(value) for key, value in part.items()} | {
        key: value for key, value in changed.items() if key in part
    }
