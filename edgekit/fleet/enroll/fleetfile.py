"""Changes one device's table in the text of `fleet.toml` and nothing else. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_TABLE = re.compile(r"\s*\[")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def _quoted(text: str) -> str:
    """A TOML string."""
    return msgspec.json.encode(text).decode()  # JSON's strings are TOML's basic strings


def _header(name: str) -> re.Pattern[str]:
    key = re.escape(name)
    bare = f"|{key}" if _BARE.match(name) else ""
    return re.compile(rf"\s*\[\s*devices\s*\.\s*(?:\"{key}\"|'{key}'{bare})\s*\]\s*(?:#.*)?\Z")


def edited(text: str, device: str, values: dict[str, Any]) -> str | None:
    """The text with other values in a device's table; None where it has to be done by hand.

    A value is a text, a table of texts, or None, which takes the key out. Comments, order and line
    ends stay. The result means what the text meant, but for these keys: it is read again, and
    compared.
    """
    lines = text.splitlines(keepends=True)
    header = _header(device)
    start = next((n for n, line in enumerate(lines) if header.match(line.rstrip("\r\n"))), None)
    if start is None:
        return None
    end = next((n for n in range(start + 1, len(lines)) if _TABLE.match(lines[n])), len(lines))
    newline = "\r\n" if lines[start].endswith("\r\n") else "\n"
    body = lines[start + 1 : end]
    for key, value in values.items():
        body = _set(body, key, value, newline)
    if not lines[start].endswith("\n"):
        lines[start] += newline
    result = "".join([*lines[: start + 1], *body, *lines[end:]])
    return result if _means(text, result, device, values) else None


def _set(body: list[str], key: str, value: Any, newline: str) -> list[str]:
    at = next((n for n, line in enumerate(body) if re.match(rf"\s*{key}\s*=", line)), None)
    new = [] if value is None else [f"{key} = {_literal(value)}{newline}"]
    if at is not None:
        comment = _comment(body[at])
        if new and comment:
            new = [new[0].rstrip("\r\n") + comment + newline]
        return [*body[:at], *new, *body[at + 1 :]]
    last = max((n + 1 for n, line in enumerate(body) if line.strip()), default=0)
    if last and not body[last - 1].endswith("\n"):
        body[last - 1] += newline
    return [*body[:last], *new, *body[last:]]


def _comment(line: str) -> str:
    """A comment behind a value, with the blanks before it; a `#` in a string is none."""
    found = re.match(r"""\s*[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|\{.*\})(\s*#.*)""", line)
    return found[1].rstrip("\r\n") if found else ""


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_quoted(v)}" for k, v in value.items()) + " }"
    return _quoted(value)


def _means(text: str, result: str, device: str, values: dict[str, Any]) -> bool:
    """Whether only these keys differ."""
    try:
        before = msgspec.toml.decode(text.removeprefix("\ufeff"))
        after = msgspec.toml.decode(result.removeprefix("\ufeff"))
        table = before["devices"][device]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return False
    for key, value in values.items():
        table.pop(key, None)
        if value is not None:
            table[key] = value
    return bool(before == after)


def by_hand(device: str, values: dict[str, Any]) -> str:
    """The lines to write, for a file that is not changed by itself."""
    name = device if _BARE.match(device) else _quoted(device)
    lines = [f"{key} = {_literal(value)}" for key, value in values.items() if value is not None]
    gone = [key for key, value in values.items() if value is None]
    said = "; ".join(lines) + ("" if not gone else f"; without {', '.join(gone)}")
    return f"[devices.{name}]: {said.strip('; ')}"
