"""Reads one tool call character by character: its name, and its arguments as JSON text. Pure."""

from __future__ import annotations

import json
import re
from typing import Protocol

_ARGUMENTS = ("arguments", "parameters")
MAX_NAME = 256  # characters before a call's name must be whole
_LONE = re.compile("[\ud800-\udfff]")  # half a character, which no message carries
_WORDS = {"None": "null", "True": "true", "False": "false"}  # Gemma's templates write null as None
_ESCAPES = ("<escape>", '<|"|>')  # around Gemma's strings


class Scan(Protocol):
    """Reads one call.

    Attributes:
        name: the function's name, once it is whole; empty before that.
        begun: the call's arguments have begun.
        done: the call is whole.
        broken: this is no call, or no longer one.
    """

    name: str
    begun: bool
    done: bool
    broken: bool

    @property
    def in_string(self) -> bool:
        """Whether a string is open, in which any character may stand."""
        ...

    def feed(self, character: str) -> None:
        """Add the next character; not after the call is done or broken."""
        ...

    def take(self) -> str:
        """Return the text of the arguments that came since the last time."""
        ...


class ObjectCall:
    """`{"name": "f", "arguments": {…}}`, with `parameters` for `arguments`, and other fields."""

    def __init__(self) -> None:
        self.name = ""
        self.begun = self.done = self.broken = False
        self._out: list[str] = []
        self._part = "open"  # what comes next: open, key, colon, value, scalar, nested, comma
        self._key = ""
        self._value: list[str] = []
        self._inner = _Brackets()  # inside the value
        self._string = _String()

    @property
    def in_string(self) -> bool:
        """Whether a string is open."""
        return self._string.open

    def take(self) -> str:
        """Return the text of the arguments that came since the last time."""
        if self.done and not self.begun:
            self.begun = True
            return "{}"
        text = "".join(self._out)
        self._out.clear()
        return text

    def feed(self, character: str) -> None:
        """Add the next character."""
        if self._string.open:
            self._keep(character)
            if self._string.ends(character):
                self._string_ended()
        elif self._part == "nested":
            self._nested(character)
        elif self._part == "scalar" and character not in ",}" and not character.isspace():
            self._keep(character)
        else:
            if self._part == "scalar":
                self._value_ended()
            if not character.isspace() and not self.broken:
                self._structure(character)

    def _structure(self, character: str) -> None:
        if self._part == "open" and character == "{":
            self._part = "key"
        elif self._part == "key" and character == '"':
            self._value = [character]
            self._string.open = True
        elif self._part == "colon" and character == ":":
            self._part, self._value = "value", []
        elif self._part == "value":
            self._begin(character)
        elif self._part == "comma" and character == ",":
            self._part = "key"
        elif character == "}" and self._part in ("comma", "key"):
            self.done = bool(self.name)
            self.broken = not self.done
        else:
            self.broken = True

    def _begin(self, character: str) -> None:
        """Begin a value."""
        self._part = "scalar"
        if character == '"':
            self._part, self._string.open = "value", True
        elif character in "{[":
            self._part = "nested"
            self._inner.fits(character)
        self._keep(character)

    def _nested(self, character: str) -> None:
        if not self._inner.fits(character):
            self.broken = True
            return
        self._keep(character)
        if character == '"':
            self._string.open = True
        elif not self._inner.open:
            self._value_ended()

    def _string_ended(self) -> None:
        if self._part == "key":
            self._key, self._part = _decoded("".join(self._value)), "colon"
            if (self.begun and self._key in _ARGUMENTS) or (self.name and self._key == "name"):
                self._key = ""  # a call has its name and its arguments once: the first it says
        elif self._part == "value":
            self._value_ended()

    def _keep(self, character: str) -> None:
        """Add a character to the value; those of an arguments' object go out as they come."""
        if self._key in _ARGUMENTS and self._part == "nested":
            self._out.append(character)
            self.begun = True
        else:
            self._value.append(character)
            too_long = self._key == "name" and len(self._value) > MAX_NAME
            self.broken = self.broken or too_long

    def _value_ended(self) -> None:
        value = "".join(self._value)
        if self._key == "name":
            self.name = _decoded(value)
            self.broken = not self.name
        elif self._key in _ARGUMENTS and self._part == "value":  # an object, written as a string
            text = _decoded(value)
            self.begun = text.lstrip().startswith("{")
            self.broken = bool(text.strip()) and not self.begun
            self._out += [_LONE.sub(_escaped, text)] if self.begun else []
        elif self._key in _ARGUMENTS and self._part == "scalar" and value != "null":
            self.broken = True
        self._key, self._part = "", "comma"


class NamedCall:
    """`f[ARGS]{…}`, with `[CALL_ID]…` behind the name in some versions."""

    def __init__(self) -> None:
        self.name = ""
        self.begun = self.done = self.broken = False
        self._head = ""
        self._out: list[str] = []
        self._inner = _Brackets()
        self._string = _String()

    @property
    def in_string(self) -> bool:
        """Whether a string is open."""
        return self._string.open

    def take(self) -> str:
        """Return the text of the arguments that came since the last time."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def feed(self, character: str) -> None:
        """Add the next character."""
        if not self._inner.open and character != "{":
            self._head += character
            self.broken = len(self._head) > MAX_NAME
            return
        if not self._inner.open:
            self.name = self._head.split("[")[0].strip()
            self.begun = bool(self.name)
            self.broken = not self.name
        if self._string.open:
            self._out.append(character)
            self._string.ends(character)
        elif not self._inner.fits(character):
            self.broken = True
        else:
            self._out.append(character)
            self._string.open = character == '"'
            self.done = not self._inner.open


class GemmaCall:
    """`call:f{key:<escape>text<escape>,other:3}`; strings and keys may be JSON's, too."""

    def __init__(self) -> None:
        self.name = ""
        self.begun = self.done = self.broken = False
        self._head = ""
        self._out: list[str] = []
        self._open: list[str] = []  # the brackets that are open
        self._word = ""  # a key or a value without quotes, or what may become a tag
        self._tag = ""  # the tag that ends a text
        self._key = False  # a key comes next
        self._string = _String()

    @property
    def in_string(self) -> bool:
        """Whether a string is open."""
        return self._string.open or bool(self._tag)

    def take(self) -> str:
        """Return the text of the arguments that came since the last time."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def feed(self, character: str) -> None:
        """Add the next character."""
        if not self._open:
            self._name(character)
        elif self._string.open:
            self._out.append(character)
            self._string.ends(character)
        elif self._tag:
            self._text(character)
        else:
            self._structure(character)

    def _name(self, character: str) -> None:
        if character != "{":
            self._head += character
            expected = "call:"[: len(self._head)]
            self.broken = not self._head.startswith(expected) or len(self._head) > MAX_NAME
            return
        self.name = self._head.removeprefix("call:").strip()
        self.begun = bool(self.name)
        self.broken = not self.name
        self._push("{")

    def _push(self, bracket: str) -> None:
        self._open.append(bracket)
        self._out.append(bracket)
        self._key = bracket == "{"

    def _text(self, character: str) -> None:
        """Add a character of a text between two tags."""
        self._word += character
        if self._word.endswith(self._tag):
            self._out.append(_inner(self._word[: -len(self._tag)]) + '"')
            self._word = self._tag = ""
            return
        most = min(len(self._word), len(self._tag) - 1)
        held = next((n for n in range(most, 0, -1) if self._tag.startswith(self._word[-n:])), 0)
        self._out.append(_inner(self._word[: len(self._word) - held]))
        self._word = self._word[len(self._word) - held :]

    def _structure(self, character: str) -> None:
        word = self._word + character
        if any(tag.startswith(word.lstrip()) for tag in _ESCAPES) and word.strip():
            self._word = word.lstrip()
            if self._word in _ESCAPES:
                self._tag, self._word = self._word, ""
                self._out.append('"')
        elif character == '"' and not self._word.strip():
            self._word, self._string.open = "", True
            self._out.append(character)
        elif character in "{[" and not self._key and not self._word.strip():
            self._word = ""
            self._push(character)
        elif character == ":" and self._key:
            self._end_word()
            self._out.append(": ")
            self._key = False
        elif character in ",}]":
            self._end_word()
            self._separate(character)
        else:
            self._word = word

    def _separate(self, character: str) -> None:
        if character == ",":
            self._out.append(", ")
            self._key = self._open[-1] == "{"
            return
        self.broken = self._open.pop() + character not in ("{}", "[]")
        if self.broken:
            return
        self._out.append(character)
        self._key = False
        self.done = not self._open

    def _end_word(self) -> None:
        """Write a key or a value that stood without quotes."""
        word, self._word = self._word.strip(), ""
        if not word:
            return
        if not self._key and word in _WORDS:
            self._out.append(_WORDS[word])
        elif not self._key and _is_scalar(word):
            self._out.append(word)
        else:
            self._out.append(json.dumps(word, ensure_ascii=False))


class _String:
    """Whether a JSON string is open, and where it ends."""

    def __init__(self) -> None:
        self.open = False
        self._escaped = False

    def ends(self, character: str) -> bool:
        """Add a character of the string; return whether it ends there."""
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self.open = False
        return not self.open


class _Brackets:
    """The brackets that are open in a JSON value."""

    def __init__(self) -> None:
        self.open: list[str] = []

    def fits(self, character: str) -> bool:
        """Add a character that is in no string; return whether it is no wrong bracket."""
        if character in "{[":
            self.open.append(character)
        elif character in "}]":
            return self.open.pop() + character in ("{}", "[]")
        return True


def _decoded(text: str) -> str:
    """Return the text of a JSON string; empty if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return ""
    return value if isinstance(value, str) else ""


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _inner(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _is_scalar(word: str) -> bool:
    try:
        json.loads(word, parse_constant=_refused)
    except ValueError:
        return False
    return True


def _refused(word: str) -> None:
    """Refuse `NaN` and its like, which Python reads and JSON does not have."""
    raise ValueError(word)
