"""TOML that a person wrote: an error names the file, the table, the key and the line. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError

_T = TypeVar("_T")
_HEADER = re.compile(r"\s*\[+\s*([^\]#]+?)\s*\]+\s*(?:#.*)?\Z")
_KEY = re.compile(
    r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*="
)
_AT = re.compile(r" - at `\$\.?([^`]*)`\Z")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")
NEXT = "correct it in the file"


def read_table(data: bytes, file: str) -> tuple[dict[str, Any], str]:
    """The whole table, and the text.

    Raises:
        UsageError: it is no UTF-8 or no TOML; says the line.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"line {line} is not UTF-8: it has the byte 0x{data[error.start]:02x}"
        raise UsageError(f"{file} is not valid", why, "save it as UTF-8") from None
    try:
        return msgspec.toml.decode(text.removeprefix("\ufeff"), type=dict[str, Any]), text
    except UNREADABLE as error:
        raise UsageError(f"{file} is not valid", str(error), NEXT) from error


def convert(table: Mapping[str, Any], kind: type[_T], where: str, text: str, at: str = "") -> _T:
    """Convert a table of a file to a type.

    Args:
        table: the table.
        kind: a type of msgspec.
        where: the file, and the table in words.
        text: the file.
        at: the table's name in the file, like `devices.pi-1`; empty for the whole file.

    Raises:
        UsageError: a key is unknown or a value is wrong.
    """
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{where} is not valid", _explain(str(error), kind, text, at), NEXT
        ) from None


def _explain(message: str, kind: type, text: str, at: str) -> str:
    """msgspec's message with the line, and the key that was perhaps meant."""
    found = _AT.search(message)
    path = re.split(r"[.\[]", found[1])[0] if found else ""
    unknown = _UNKNOWN.search(message)
    key = unknown[1] if unknown else ""
    meant = _nearest(key, kind) if key and not path else ""
    line = 0
    for words in ((at, found[1] if found else "", key), (at, path, key), (at, path), (at, key)):
        line = line or line_of(text, ".".join(filter(None, words)))
    said = f"line {line}: {message}" if line else message
    return f"{said}; did you mean `{meant}`?" if meant else said


def _nearest(word: str, kind: type) -> str:
    """The key of the type that is most like this one; empty without one."""
    known = getattr(kind, "__struct_encode_fields__", ())
    return next(iter(difflib.get_close_matches(word, known, 1)), "")


def line_of(text: str, name: str) -> int:
    """The line, from 1 on, where a key or table stands, like `devices.pi-1.root`; 0 if unknown."""
    header = ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEADER.match(line):
            header = _plain(found[1])
            if f"{header}.".startswith(f"{name}."):
                return number
        elif (key := _KEY.match(line)) and ".".join(filter(None, (header, _plain(key[1])))) == name:
            return number
    return 0


def _plain(dotted: str) -> str:
    return re.sub(r"\s*\.\s*", ".", dotted.replace('"', "").replace("'", ""))
