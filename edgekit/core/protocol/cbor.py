"""The only door to cbor2: CBOR (RFC 8949) of the values that JSON has, read strictly.

cbor2 is imported on first use: a device whose requesters all send JSON saves its memory.
"""

from __future__ import annotations

import io
from collections import defaultdict

import msgspec

MAX_DEPTH = 16  # a body needs 5
MAX_ERROR_CHARS = 200  # cbor2 quotes what it has read


def decode(payload: bytes) -> object:
    """Decode the one value that `payload` holds.

    Raises:
        ValueError: the value is cut off or followed by more bytes, nests deeper than `MAX_DEPTH`,
            or has tags (§3.4), indefinite lengths (§3.2), a repeated key or a key that is no
            string (§5.6).
    """
    import cbor2  # noqa: PLC0415  see above

    decoder = cbor2.CBORDecoder(
        io.BytesIO(payload),
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        semantic_decoders=defaultdict(lambda: _refuse_tag),
    )
    try:
        value: object = decoder.decode()
    except cbor2.CBORError as error:
        raise ValueError(str(error.__cause__ or error)[:MAX_ERROR_CHARS]) from None
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return value
    raise ValueError("something follows the value")


def from_json(payload: bytes) -> bytes:
    """Convert a JSON text that edgekit itself encoded to CBOR."""
    import cbor2  # noqa: PLC0415  see above

    return cbor2.dumps(msgspec.json.decode(payload))


def _refuse_tag(_value: object, _immutable: bool) -> object:
    raise ValueError("tags are not served")
