"""Pictures in prompts: their bounds, and how a body carries them. Pure values and rules.

A picture comes in a content part of a user's message: in JSON as `image_url` with a `data:` URL
(RFC 2397), in CBOR also as `image` with a byte string. The agent never fetches a URL. Nothing here
decodes a picture: only the model's process does that.
"""

from __future__ import annotations

import binascii
import re
from math import isqrt
from typing import Any

FORMATS = ("image/jpeg", "image/png")
MAX_PIXELS = 4_000_000
MIN_SIDE = 16  # pixels; so are the next ones
MAX_SIDE = 4096
MAX_ASPECT = 8  # the longer side over the shorter one
PER_MESSAGE = 1  # new pictures of one message, unless `images_per_prompt` says otherwise
PER_CONVERSATION = 2  # pictures of all messages of one prompt, likewise
MOST_PER_PROMPT = 12  # a context of 4,096 tokens holds no more pictures of one crop
MAX_CROPS = 16  # of one picture, as the model was trained
# Four prompts of one requester, and their answers, fit into its share of the journal (2 MiB).
MAX_PICTURE_BODY_BYTES = 510 * 1024
MOST_BODY_BYTES = 768 * 1024  # of a body with pictures, whatever a bundle says
SEND_SIDE = 672  # pixels of the longer side that a client sends: two crops of 336
SEND_BYTES = 128 * 1024  # of the encoded picture that a client sends

Content = str | list[str | bytes]
"""Of a message: its text; with pictures its texts and encoded pictures, in their order."""

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_DATA_URL = re.compile(r"data:(?P<type>[^;,]*+)(?P<parameters>(?:;[^;,]*+)*+),", re.IGNORECASE)
_FETCHED = re.compile(r"(?:https?|ftp|file|blob):", re.IGNORECASE)
_ALIASES = {"image/jpg": "image/jpeg"}  # what many programs write for a file's ending
SHOWN_CHARS = 40  # of a URL that an error repeats


class Encoded:
    """The bytes of a JPEG or PNG, not decoded and not checked beyond their first bytes.

    msgspec would decode a dataclass or a struct by itself; for this class it asks `decode`.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class FromUrl(Encoded):
    """A picture that came in a `data:` URL; its base64 text is gone."""

    __slots__ = ()


class FromBytes(Encoded):
    """A picture that came as a byte string of CBOR."""

    __slots__ = ()


def takes_pictures(model: dict[str, Any]) -> bool:
    """Whether a model takes pictures, by the section `model` of its `genai_config.json`."""
    return bool(model.get("vision"))


def allowed(images_per_prompt: int) -> tuple[int, int]:
    """How many pictures one message and one whole prompt may have.

    Args:
        images_per_prompt: of the device's settings; 0: the default.
    """
    if images_per_prompt:
        return images_per_prompt, images_per_prompt
    return PER_MESSAGE, PER_CONVERSATION


def send_side(crops: int, crop_side: int) -> int:
    """The pixels of the longer side that a client sends to a device that looks at so many crops.

    A square picture of that side has no more than `MAX_PIXELS`.

    Args:
        crop_side: of one crop, in pixels, as the model reads it.
    """
    return min(max(SEND_SIDE, crop_side * isqrt(crops)), isqrt(MAX_PIXELS))


def send_bytes(room: int, per_prompt: int) -> int:
    """The bytes of a picture that a client sends.

    Args:
        room: of a body, for all its pictures in base64, in bytes.
        per_prompt: the most pictures of a body.
    """
    return min(SEND_BYTES, room * 3 // 4 // per_prompt)


def format_of(data: bytes) -> str:
    """The format by a file's first bytes: one of `FORMATS`, or empty for any other file."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")


def decode(kind: type, given: object) -> Encoded:
    """Make an `Encoded` of a body's value: the `dec_hook` of msgspec.

    Raises:
        ValueError: the value is no picture, with a sentence that says why.
    """
    if kind is FromUrl:
        if not isinstance(given, str):
            raise ValueError("expected a string with a data: URL")
        return FromUrl(_checked(read_data_url(given)))
    if not isinstance(given, bytes):
        raise ValueError(
            "a part of type image carries a byte string, which only CBOR has; "
            "JSON carries a picture as image_url with a data: URL"
        )
    return FromBytes(_checked(given))


def schema(kind: type) -> dict[str, Any]:
    """The JSON Schema of an `Encoded` in a body of JSON: the `schema_hook` of msgspec."""
    if kind is FromBytes:
        return {"not": {}, "description": "A byte string of CBOR; JSON has none."}
    types = "|".join((*FORMATS, *_ALIASES))
    return {
        "type": "string",
        "pattern": f"^data:({types});base64,[A-Za-z0-9+/]+={{0,2}}$",
        "description": "A data: URL with a whole JPEG or PNG file. The device fetches no URL.",
    }


def read_data_url(text: str) -> bytes:
    """The bytes of a `data:` URL with base64 (RFC 4648, section 4), read strictly.

    Raises:
        ValueError: it is another URL, another media type or no base64.
    """
    head = _DATA_URL.match(text)
    if not head:
        shown = text[:SHOWN_CHARS] + ("…" if len(text) > SHOWN_CHARS else "")
        shown = shown.replace("`", "'")  # `chat` finds names in msgspec's errors by backticks
        if _FETCHED.match(text):
            raise ValueError(f"the device fetches no URL, as {shown!r}; send the picture itself")
        raise ValueError(
            f"{shown!r} is no picture; send data:image/jpeg;base64, and then the file in base64"
        )
    media_type = head["type"].strip().lower()
    if _ALIASES.get(media_type, media_type) not in FORMATS:
        raise ValueError(f"{media_type[:SHOWN_CHARS] or 'no media type'} is not served; {_SERVED}")
    if head["parameters"].lower() != ";base64":
        raise ValueError("the data: URL is not data:image/jpeg;base64,… or data:image/png;base64,…")
    try:
        return binascii.a2b_base64(text[head.end() :], strict_mode=True)
    except (binascii.Error, ValueError) as error:  # a character that is not ASCII
        raise ValueError(f"what follows base64, is no base64: {error}") from None


_SERVED = "send " + " or ".join(FORMATS)


def _checked(data: bytes) -> bytes:
    if not format_of(data):
        raise ValueError(f"the file's first bytes are of no JPEG or PNG; {_SERVED}")
    return data
