"""JSON of what a program or a person says: what JSON does not have is refused.

msgspec writes NaN and the infinities as null, and bytes in base64. A prompt with `temperature` null
gets the default, a constant of a schema becomes another one, and a model reads letters of base64.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec


def encode(value: Any) -> bytes:
    """Return a value as JSON.

    Raises:
        ValueError: something in it is none of JSON's; names its place.
    """
    left = [("", value)]
    while left:
        at, one = left.pop()
        if isinstance(one, dict):
            left += [(f"{at}.{name}" if at else str(name), each) for name, each in one.items()]
        elif isinstance(one, list | tuple):
            left += [(f"{at}[{number}]", each) for number, each in enumerate(one)]
        elif isinstance(one, float) and not isfinite(one):
            raise ValueError(f"{at} is {one}, and JSON has no such number")
        elif isinstance(one, bytes | bytearray | memoryview):
            raise ValueError(f"{at} has bytes, and JSON has text alone")
    return msgspec.json.encode(value)
