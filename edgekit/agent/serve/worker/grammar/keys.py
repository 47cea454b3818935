"""Follows the strings of a JSON text, so that no object gets a key twice. Pure.

JSON Schema counts and constrains properties by name, and readers of JSON disagree on an object that
has a key twice. A grammar has no memory of the keys that an object has already, and to llguidance
"\\u0061" is another key than "a", so that it would be free where others than "a" are. So a key has
no escape that JSON does not need. Half a surrogate pair is in no string: strict readers refuse it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

_NEXT = {  # what matters next, by whether a string is open
    True: re.compile(rb'["\\]'),
    False: re.compile(rb'["{}\[\],:]'),
}
_QUOTE, _ESCAPE = b'"', b"\\"
# Beginnings of the escapes that may come, by whether a key is written. A key has those of JSON
# itself, of quotes and control characters; no string has one that spells a surrogate.
_ESCAPES = {
    True: re.compile(rb'\\(?:["\\bfnrt]|u(?:0(?:0(?:[01][0-9a-f]?)?)?)?)?'),
    False: re.compile(
        rb'\\(?:["\\/bfnrt]|u(?:[0-9abcefABCEF][0-9a-fA-F]{0,3}|[dD](?:[0-7][0-9a-fA-F]{0,2})?)?)?'
    ),
}
_WHOLE = 6  # characters of the longest escape


@dataclass(frozen=True, slots=True)
class Keys:
    """Where in a JSON text an answer is.

    Attributes:
        open: the keys of each object that is open, the outermost first; None for an array.
        awaits_key: whether the next string is a key.
        text: the key that is being written, from its quote on; empty within a value's string.
        in_string: whether a string is open.
        escape: the escape that is being written, from its backslash on.
    """

    open: tuple[frozenset[str] | None, ...] = ()
    awaits_key: bool = False
    text: bytes = b""
    in_string: bool = False
    escape: bytes = b""

    def after(self, piece: bytes) -> Keys | None:
        """Return the place behind a further piece; None where no answer may have it.

        It ends a key that is there already, or begins an escape that a string may not have.
        """
        at, place = 0, self
        while at < len(piece):
            if place.escape:
                following = place._escaped(piece[at : at + 1])
                at += 1
            else:
                found = _NEXT[place.in_string].search(piece, at)
                until = len(piece) if found is None else found.start()
                place = place._kept(piece[at:until])
                if found is None:
                    return place
                following, at = place._behind(found[0]), found.end()
            if following is None:
                return None
            place = following
        return place

    def after_token(self, token: int) -> Keys:
        """Return the place behind a special token: it is no part of the text."""
        return self

    def _kept(self, piece: bytes) -> Keys:
        return replace(self, text=self.text + piece) if self.text and piece else self

    def _escaped(self, character: bytes) -> Keys | None:
        """Return the place behind a further character of an escape; None as in `after`."""
        escape = self.escape + character
        if not _ESCAPES[bool(self.text)].fullmatch(escape):
            return None
        over = len(escape) == _WHOLE or escape[1:2] != b"u"
        return replace(self._kept(character), escape=b"" if over else escape)

    def _behind(self, sign: bytes) -> Keys | None:
        """Return the place behind a sign that matters; None as in `after`."""
        if self.in_string:
            if sign == _ESCAPE:
                return replace(self._kept(sign), escape=sign)
            return self._behind_string()
        if sign == _QUOTE:
            return replace(self, in_string=True, text=_QUOTE if self.awaits_key else b"")
        if sign in b"{[":
            inner = frozenset[str]() if sign == b"{" else None
            return replace(self, open=(*self.open, inner), awaits_key=inner is not None)
        if sign in b"}]":
            return replace(self, open=self.open[:-1], awaits_key=False)
        in_object = bool(self.open) and self.open[-1] is not None
        return replace(self, awaits_key=sign == b"," and in_object)

    def _behind_string(self) -> Keys | None:
        if not self.text:
            return replace(self, in_string=False)
        key = str(json.loads(self.text + _QUOTE))
        keys = self.open[-1]
        assert keys is not None, "a key is an object's"
        if key in keys or json.dumps(key, ensure_ascii=False).encode() != self.text + _QUOTE:
            return None
        return replace(
            self, open=(*self.open[:-1], keys | {key}), text=b"", in_string=False, awaits_key=False
        )


@dataclass(frozen=True, slots=True)
class CallKeys:
    """Where an answer is that may have text and, behind a tag, calls whose arguments are JSON.

    Attributes:
        tag: the text that opens a call, or the token; empty: an answer that begins with an object
            is a call.
        keys: within a call; None in text.
        text: the end of the text, which may be the beginning of a tag.
    """

    tag: bytes | int
    keys: Keys | None = None
    text: bytes = b""

    def after(self, piece: bytes) -> CallKeys | None:
        """Return the place behind a further piece; None as with `Keys`."""
        keys, text = self.keys, self.text + piece
        if keys is None:
            if isinstance(self.tag, int):
                return self
            if not self.tag:
                begun = text.lstrip()[:1]
                if begun != b"{":
                    return replace(self, tag=-1 if begun else b"")  # no token is -1
                keys, piece = Keys(), text
            else:
                _, found, piece = text.partition(self.tag)
                if not found:
                    return replace(self, text=text[1 - len(self.tag) :])
                keys = Keys()
        keys = keys.after(piece)
        if keys is None:
            return None
        if keys.open or b"}" not in piece:  # brackets alone are a part of a tag
            return replace(self, keys=keys, text=b"")
        return replace(self, keys=None, text=b"").after(piece.rpartition(b"}")[2])

    def after_token(self, token: int) -> CallKeys:
        """Return the place behind a special token, which has no text."""
        return replace(self, keys=Keys()) if token == self.tag else self
