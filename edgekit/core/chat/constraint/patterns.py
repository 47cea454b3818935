"""Patterns of JSON Schema, as ECMA-262 has them, in the words of Rust's `regex`.

JSON Schema's patterns are ECMA-262's (2020-12 core, 6.4), llguidance reads Rust's. Both read most
patterns alike, and some otherwise: `.`, `\\s`, `\\S`, and what stands in brackets. So a pattern is
read here as ECMA-262 has it, and each of these is written out. What only another language knows,
such as `\\z` or `[[:alpha:]]`, is refused by name: ECMA-262 would take it for letters.

No string of an answer has the character U+0000. With a class that held all of U+0000 to U+001F,
llguidance 1.9 would write `\\"` and `\\\\` as well, also for `[^"\\\\]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# ECMA-262, 12.2 and 12.3: white space and line terminators
_SPACE = r"\t\n\x0B\x0C\r\x20\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF"
_SETS = {"d": "0-9", "w": "0-9A-Za-z_", "s": _SPACE}
_NUL = r"\x{0}"
_NO_NUL = "the character U+0000 is not served"
_LINE_ENDS = r"\n\r\u2028\u2029"
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_]\w*>|i[:)]|-i:|<?[=!])")
_PROPERTY = re.compile(r"\\[pP]\{[A-Za-z0-9_=]+\}")
_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\})")
_LETTER = re.compile(r"\\c([A-Za-z])")
_POSIX = re.compile(r"\[[:.=]\^?[a-z]+[:.=]\]")

_DAYS = r"(?:0[13-9]|1[0-2])-|02-(?:[01]|2[0-8])"
_LEAP = r"(?:[02468][48]|[13579][26]|[2468]0)"  # the last two digits, but 00
_ALNUM, _HYPHENED = "[0-9A-Za-z]", "[0-9A-Za-z-]"


def _label(most: int) -> str:
    """A label of a host's name, of so many characters, without hyphens in places 3 and 4."""
    a, h = _ALNUM, _HYPHENED
    return f"{a}(?:{a}|{h}{a}(?:{h}{{0,{most - 4}}}{a})?|{h}-{a}(?:{h}{{0,{most - 5}}}{a})?)?"


_SECOND = r":[0-5][0-9]:[0-5][0-9]"
_DATE = (
    rf"^(?:[0-9]{{3}}[1-9]|[0-9]{{2}}[1-9]0|[0-9][1-9]00|[1-9]000)-(?:{_DAYS})"
    rf"|^(?:[0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29"
)
FORMATS = {
    "date": _DATE,
    "date-time": f"(?:{_DATE}).*{_SECOND}",
    "time": f"^[0-9]{{2}}{_SECOND}",
    "hostname": "^(?:{0}(?:\\.{0}){{0,3}}|{1}(?:\\.{1}){{0,7}})$".format(_label(62), _label(30)),
}
"""What a string of a format must match, too: llguidance lets more through.

It takes February 29 in every year, and second 60 in every minute, where RFC 3339 (5.7) has it at
the end of some days alone. Here no minute has it, and no date has the year 0000, which many readers
lack. A host's name has at most 253 characters (RFC 1123, 2.1). Hyphens in places 3 and 4 of a label
mark one in Punycode, which no grammar can check (RFC 5891, 4.2.3.1).
"""


class PatternError(ValueError):
    """A pattern that is not served; the text says what of it."""


def translated(pattern: str) -> str:
    """Return a pattern that Rust's `regex` reads as ECMA-262 reads this one.

    Look-arounds, references back and borders of words stay as they are: llguidance refuses them.

    Raises:
        PatternError: it has what ECMA-262 does not know, or reads otherwise than its writer.
    """
    return "".join(_Reader(pattern).parts())


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def parts(self) -> Iterator[str]:
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\\":
                yield self._escaped()
            elif character == "[":
                yield self._bracketed()
            elif character == ".":
                self._at += 1
                yield f"[^{_LINE_ENDS}]"
            elif self._text.startswith("(?", self._at):
                yield self._taken(_GROUP, "the group")
            elif character == "\0":
                raise PatternError(_NO_NUL)
            else:
                self._at += 1
                yield character

    def _taken(self, form: re.Pattern[str], what: str) -> str:
        """Return the text of this form that stands here, and go on behind it."""
        found = form.match(self._text, self._at)
        if found is None:
            raise PatternError(f"{what} {self._text[self._at :][:8]!r} is not served")
        self._at = found.end()
        return found[0]

    def _escaped(self) -> str:
        """Read an escape outside of brackets."""
        letter = self._text[self._at + 1 : self._at + 2]
        if letter in ("b", "B") or (letter.isdigit() and letter != "0"):
            self._at += 2
            return f"\\{letter}"
        found = self._set_or_code()
        if found == 0:
            raise PatternError(_NO_NUL)
        return found if isinstance(found, str) else _character(found)

    def _set_or_code(self) -> str | int:
        """Read an escape: a set as a class, or one character's code."""
        letter = self._text[self._at + 1 : self._at + 2]
        if letter.lower() in _SETS and letter:
            self._at += 2
            known = _SETS[letter.lower()]
            return f"[^{known}{_NUL}]" if letter.isupper() else f"[{known}]"
        if letter in ("p", "P"):
            return f"[{self._taken(_PROPERTY, 'the escape')}--{_NUL}]"
        if letter in _CONTROLS:
            self._at += 2
            return _CONTROLS[letter]
        if letter == "0" and not self._text[self._at + 2 : self._at + 3].isdigit():
            self._at += 2
            return 0
        if letter == "c":
            return ord(self._taken(_LETTER, "the escape")[2]) % 32
        if letter in ("x", "u"):
            return self._code()
        if not letter or (letter.isascii() and letter.isalnum()):
            raise PatternError(f"the escape \\{letter} is none of ECMA-262")
        self._at += 2
        return ord(letter)

    def _code(self) -> int:
        value = int(self._taken(_CODE, "the escape").strip("\\xu{}"), 16)
        if 0xD800 <= value < 0xDC00:  # the first half of a pair (ECMA-262, 6.1.4)
            second = _CODE.match(self._text, self._at)
            low = int(second[2] or "0", 16) if second else 0
            if 0xDC00 <= low < 0xE000:
                self._at += 6
                return 0x10000 + ((value - 0xD800) << 10) + low - 0xDC00
        if 0xD800 <= value < 0xE000 or value > 0x10FFFF:
            raise PatternError(f"{value:04X} is the code of no character")
        return value

    def _bracketed(self) -> str:
        """Read a class in brackets: characters, ranges and sets."""
        begin = self._at
        if _POSIX.search(self._text, begin):
            raise PatternError("a class of POSIX is none of ECMA-262")
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        items: list[str] = []
        while not self._text.startswith("]", self._at):
            items.append(self._item(begin))
        self._at += 1
        if negated:
            return f"[^{''.join(items)}{_NUL}]"
        if not any(items):
            raise PatternError(f"the class {self._text[begin : self._at][:20]!r} has no character")
        return f"[{''.join(items)}]"

    def _item(self, begin: int) -> str:
        low = self._atom(begin)
        behind = self._text[self._at + 1 : self._at + 2]
        if not self._text.startswith("-", self._at) or behind in ("", "]"):
            return low if isinstance(low, str) else _character(low)
        self._at += 1
        high = self._atom(begin)
        if isinstance(low, str) or isinstance(high, str):
            ends = (low, ord("-"), high)
            return "".join(each if isinstance(each, str) else _character(each) for each in ends)
        if low > high:
            raise PatternError(f"{self._text[begin : self._at][:20]!r} has a range that ends first")
        return f"{_character(max(low, 1))}-{_character(high)}" if high else ""

    def _atom(self, begin: int) -> str | int:
        if self._at >= len(self._text):
            raise PatternError(f"{self._text[begin:][:20]!r} has no end")
        character = self._text[self._at]
        if character != "\\":
            self._at += 1
            return ord(character)
        if self._text.startswith(r"\b", self._at):
            self._at += 2
            return 0x08
        return self._set_or_code()


def _character(code: int) -> str:
    """Return one character of a class; nothing for U+0000."""
    if not code:
        return ""
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\x{{{code:X}}}"
