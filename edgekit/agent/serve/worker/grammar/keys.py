"""Follows the keys of a JSON text, so that no object gets one twice. Pure.

JSON Schema counts and constrains properties by name, and readers of JSON disagree on an object that
has a key twice. A grammar has no memory of the keys that an object has already.
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


@dataclass(frozen=True, slots=True)
class Keys:
    """Where in a JSON text an answer is.

    Attributes:
        open: the keys of each object that is open, the outermost first; None for an array.
        awaits_key: whether the next string is a key.
        text: the key that is being written, from its quote on; empty within a value's string.
        in_string: whether a string is open.
        escapes: whether the next character is escaped.
    """

    open: tuple[frozenset[str] | None, ...] = ()
    awaits_key: bool = False
    text: bytes = b""
    in_string: bool = False
    escapes: bool = False

    def after(self, piece: bytes) -> Keys | None:
        """Return the place behind a further piece; None if it ends a key that is there already."""
        at, place = 0, self
        while at < len(piece):
            if place.escapes:
                place = place._kept(piece[at : at + 1], escapes=False)
                at += 1
                continue
            found = _NEXT[place.in_string].search(piece, at)
            until = len(piece) if found is None else found.start()
            place = place._kept(piece[at:until])
            if found is None:
                return place
            following = place._behind(found[0])
            if following is None:
                return None
            at, place = found.end(), following
        return place

    def _kept(self, piece: bytes, *, escapes: bool = False) -> Keys:
        text = self.text + piece if self.text else b""
        return (
            self
            if text == self.text and not self.escapes
            else replace(self, text=text, escapes=escapes)
        )

    def _behind(self, sign: bytes) -> Keys | None:
        """Return the place behind a sign that matters; None as in `after`."""
        if self.in_string:
            if sign == _ESCAPE:
                return replace(self._kept(sign), escapes=True)
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
        if key in keys:
            return None
        return replace(
            self, open=(*self.open[:-1], keys | {key}), text=b"", in_string=False, awaits_key=False
        )
