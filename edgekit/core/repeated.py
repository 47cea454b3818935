"""JSON whose objects name a key twice: readers disagree on which value counts, so it is refused.

RFC 8259, section 4, calls the behaviour of a receiver unpredictable. CBOR is refused for it too.
"""

from __future__ import annotations

import re

import msgspec

MAX_KEY_CHARS = 64  # of the key that an error repeats
# A string, with the colon after it if it is a key, or a bracket. Possessive: nothing is remembered.
_TOKEN = re.compile(rb'("(?:[^"\\]++|\\.)*+")\s*+(:)?|[][{}]')


def check_keys(text: bytes) -> None:
    """Check that no object of a JSON text has a key twice; it costs little memory.

    Args:
        text: JSON that msgspec has read, else what is found means nothing.

    Raises:
        ValueError: names the key.
    """
    if text.count(b":") < 2:
        return
    open_objects: list[set[bytes]] = []
    for found in _TOKEN.finditer(text):
        key, colon = found.groups()
        if key is None:
            if found[0] in b"{[":
                open_objects.append(set())  # an array's stays empty
            elif open_objects:
                open_objects.pop()
        elif colon and open_objects:
            if b"\\" in key:  # "\u0061" is "a"
                key = msgspec.json.encode(msgspec.json.decode(key))
            if key in open_objects[-1]:
                name = msgspec.json.decode(key, type=str)[:MAX_KEY_CHARS]
                raise ValueError(f"the key {name!r} comes twice in one object")
            open_objects[-1].add(key)
