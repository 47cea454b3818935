"""Finds out which characters of a rendered prompt come from messages. Pure.

The conversation is rendered twice: as it is, and as its *shadow*, in which a noncharacter stands in
the place of each character that a control token has. Both texts then have the same length, and the
prompt's characters that come from messages are those where the shadow has the noncharacter. So a
control token is the template's own exactly if none of its characters is a message's, whatever the
template did to the text: joined, trimmed, replaced, or changed to other letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

NONCHARACTERS = tuple(
    chr(code)
    for code in chain(
        range(0xFDD0, 0xFDF0), *((p << 16 | 0xFFFE, p << 16 | 0xFFFF) for p in range(17))
    )
)
"""The code points that Unicode keeps for a program's own use (Unicode 16, section 23.7)."""

Normalize = Callable[[str], str]


def marker(texts: Iterable[str]) -> str | None:
    """Return a noncharacter that occurs in none of these texts; None if all of them do."""
    used = set().union(*map(set, texts))
    return next((each for each in NONCHARACTERS if each not in used), None)


class Spots:
    """Where in a message's text a control token could begin, end or lie.

    Args:
        tokens: the texts of the control tokens.
        kept: strings that the template looks for in messages; their characters stay in the shadow.
        normalize: the tokenizer's normaliser; control tokens may be found in what it returns.
    """

    def __init__(
        self, tokens: Collection[str], kept: Iterable[str], normalize: Normalize = str
    ) -> None:
        self._normalize = normalize
        self._tokens = sorted({self._plain(token) for token in tokens}, key=len, reverse=True)
        marks = {c for text in self._tokens for c in text if not c.isalnum()}
        marks |= {c for text in self._tokens if text for c in (text[0], text[-1])}
        self._marks = {c for c in marks if not c.isspace()}
        keep = (text for text in kept if self._harmless(self._plain(text)))
        pattern = "|".join(re.escape(text) for text in sorted(keep, key=len, reverse=True))
        self._kept = re.compile(pattern) if pattern else None
        self._known: dict[str, bool] = {}

    def _plain(self, text: str) -> str:
        """Return the text as the tokenizer's normaliser would match it, character for character."""
        plain = map(self._normal, text)
        return "".join(p if len(p) == 1 else c for p, c in zip(plain, text, strict=True))

    def _normal(self, character: str) -> str:
        """Return what the normaliser makes of a character inside a text.

        Some normalisers put a sign before a whole text.
        """
        before = self._normalize("a")
        pair = self._normalize("a" + character)
        return pair[len(before) :] if pair.startswith(before) else self._normalize(character)

    def _harmless(self, text: str) -> bool:
        """Whether a string can stay in the shadow: it is no part of a control token."""
        return len(text) > 1 and not any(text in token or token in text for token in self._tokens)

    def _is_mark(self, character: str) -> bool:
        known = self._known.get(character)
        if known is None:
            normal = {character, *self._normal(character)}
            known = not character.isspace() and not self._marks.isdisjoint(normal)
            self._known[character] = known
        return known

    def any_in(self, text: str) -> bool:
        """Whether the text may be a part of a control token."""
        return any(map(self._is_mark, set(text))) or self._inside(text)

    def _inside(self, text: str) -> bool:
        inner = self._plain(text.strip())
        return bool(inner) and any(inner in token for token in self._tokens)

    def wide(self, text: str, mark: str) -> str:
        """Return the text's shadow, with all characters of control tokens replaced."""
        if self._inside(text):
            return _masked(text, (n for n, c in enumerate(text) if not c.isspace()), mark)
        spared = {
            at
            for found in (self._kept.finditer(text) if self._kept else ())
            for at in range(*found.span())
        }
        places = [n for n, c in enumerate(text) if n not in spared and self._is_mark(c)]
        return _masked(text, places, mark)

    def narrow(self, text: str, mark: str, ends: bool) -> str:
        """Return a shadow in which only whole control tokens are replaced.

        For templates that look for a string with such characters in a message.

        Args:
            text: a message's.
            mark: the noncharacter.
            ends: replace parts of control tokens at the text's ends, too.
        """
        plain = self._plain(text)
        places = {
            found.start()
            for token in self._tokens
            for found in re.finditer(re.escape(token), plain)
        }
        if ends:
            places |= self._ends(text, plain)
        return _masked(text, (n for n in sorted(places) if not text[n].isspace()), mark)

    def _ends(self, text: str, plain: str) -> set[int]:
        """Return the places where a neighbour could make a control token of the text's ends."""
        begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
        places = set(range(begin, end)) if self._inside(text) else set()
        for token in self._tokens:
            for size in range(1, min(len(token), end - begin + 1)):
                if plain.endswith(token[:size], begin, end):
                    places |= set(range(end - size, end))
                if plain.startswith(token[-size:], begin, end):
                    places |= set(range(begin, begin + size))
        return places


def _masked(text: str, places: Iterable[int], mark: str) -> str:
    parts, last = [], 0
    for at in places:
        parts += [text[last:at], mark]
        last = at + 1
    return "".join([*parts, text[last:]])


def message_characters(rendered: str, shadow: str, mark: str) -> Sequence[int] | None:
    """Return the places of characters that come from messages; None if the two do not align.

    Args:
        rendered: the prompt's text.
        shadow: the text that the template made of the messages' shadows.
        mark: the noncharacter.
    """
    if len(rendered) != len(shadow):
        return None
    places = [found.start() for found in re.finditer(re.escape(mark), shadow)]
    return places if _masked(rendered, places, mark) == shadow else None
