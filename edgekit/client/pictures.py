"""Pictures of a prompt at its requester: shrunk to what the device's card says, then sent.

A photo of a phone has megabytes, and the model sees a few hundred pixels of it. What is sent has no
metadata: neither where nor when the picture was taken. Pillow is loaded on first use; only who asks
about pictures needs it.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgekit.core import pictures
from edgekit.errors import EdgekitError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

READ = ("JPEG", "PNG", "WEBP")  # what a requester reads; a device gets the first two alone
MAX_FILE_BYTES = 64 << 20
LEAST_BYTES = 4096  # a card that asks for less is no agent's
QUALITIES = (90, 80, 70, 60)  # of JPEG, until the bytes fit
STEP = 0.75  # then the sides shrink by this
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # 8 bits for each colour, and no inks

Source = str | Path | bytes


class PictureLimits(msgspec.Struct, frozen=True):
    """What a device takes of a picture, as its card's `images` says; else the defaults."""

    side: Annotated[int, msgspec.Meta(ge=pictures.MIN_SIDE)] = pictures.SEND_SIDE
    bytes: Annotated[int, msgspec.Meta(ge=LEAST_BYTES)] = pictures.SEND_BYTES
    per_message: int = pictures.PER_MESSAGE


class SentPicture(msgspec.Struct, frozen=True):
    """A picture as it is sent.

    Attributes:
        data: a JPEG or PNG file without metadata.
        width, height: in pixels, upright.
        name: of its file; empty for bytes.
        was_bytes, was_width, was_height: of the file that it was made of.
    """

    data: bytes
    width: int
    height: int
    name: str
    was_bytes: int
    was_width: int
    was_height: int

    @property
    def media_type(self) -> str:
        """image/jpeg or image/png."""
        return pictures.format_of(self.data)


def limits_of(to: str, cards: Mapping[str, Mapping[str, Any]]) -> PictureLimits:
    """What all devices of these cards take; the defaults where no card is known.

    Args:
        to: the device or pool, for errors.
        cards: by device name.

    Raises:
        UsageError: one of them takes no pictures.
    """
    found = []
    for name, card in cards.items():
        if card.get("images") is None:
            raise UsageError(
                f"{to} takes no pictures" if name == to else f"{name} of {to} takes no pictures",
                f"its model {card.get('model', '?')} reads text alone",
                "`edgekit devices` shows which devices take pictures",
            )
        with suppress(msgspec.ValidationError):  # a client that is no agent has retained it
            found.append(msgspec.convert(card["images"], PictureLimits))
    if not found:
        return PictureLimits()
    return PictureLimits(
        *(min(getattr(each, name) for each in found) for name in PictureLimits.__struct_fields__)
    )


def shrink(source: Source, limits: PictureLimits = PictureLimits()) -> SentPicture:  # noqa: B008  it is frozen
    """Make of a picture what a device gets: upright, RGB, not larger than the limits.

    A PNG stays a PNG, without loss, where its bytes fit.

    Args:
        source: a file, or its bytes: JPEG, PNG or WebP.
        limits: of the device.

    Raises:
        UsageError: it cannot be read or is no picture, its shape or colours are not taken, or
            Pillow is missing.
    """
    name, data = ("", source) if isinstance(source, bytes) else (str(source), _read(Path(source)))
    what = name or "the picture"
    image, is_png = _decoded(what, data)
    was = image.size
    _check_shape(what, *was)
    side = min(limits.side, isqrt(pictures.MAX_PIXELS))  # some cards ask for more than is taken
    image = _scaled(image, side / max(was))
    sent, image = _encoded(what, image, limits, is_png=is_png)
    return SentPicture(sent, *image.size, name, len(data), *was)


def with_pictures(body: dict[str, Any], shown: Sequence[SentPicture]) -> dict[str, Any]:
    """Return the body with pictures in its last message, before the message's text.

    Raises:
        UsageError: the last message is none of a user.
    """
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        raise UsageError(
            "the pictures have no message to go with",
            "they go into the last message of the body, which must be a user's",
            next_step="end the body with a message of a user",
        )
    content = last.get("content")
    said = [{"type": "text", "text": content}] if isinstance(content, str) else (content or [])
    parts = [{"type": "image_url", "image_url": {"url": _url(picture)}} for picture in shown]
    return body | {"messages": [*messages[:-1], last | {"content": [*parts, *said]}]}


def check_count(to: str, count: int, limits: PictureLimits) -> None:
    """Check how many pictures one message brings; raises UsageError."""
    if count > limits.per_message:
        raise UsageError(
            f"{count} pictures are too many for {to}",
            f"it takes {limits.per_message} in one message",
            "ask about one after the other, or set images_per_prompt in fleet.toml and push",
        )


def _url(picture: SentPicture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415  see above
    except ImportError:
        raise UsageError(
            "pictures need Pillow, which is not installed here",
            next_step="pip install 'pillow>=12,<14'",
        ) from None
    return Image


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)  # of a device or a pipe, too
    except FileNotFoundError:
        raise UsageError(
            f"there is no picture {path}", "no such file", next_step="correct the name"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(
            f"{path} cannot be read",
            str(error),
            next_step="name a picture that this account may read",
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(
            f"{path} is too large",
            f"it has more than {MAX_FILE_BYTES} bytes, the most that a picture may have",
            "save it smaller",
        )
    return data


def _decoded(what: str, data: bytes) -> tuple[Image, bool]:
    """Decode a picture: upright, RGB; and whether it was a PNG.

    Raises:
        UsageError: it is no picture, or not one that a device takes.
    """
    pillow = _pillow()
    from PIL import ImageOps, UnidentifiedImageError  # noqa: PLC0415  see above

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large photos, and of damaged EXIF
            with pillow.open(io.BytesIO(data), formats=READ) as image:
                if image.mode not in MODES:
                    raise UsageError(
                        f"{what} has colours that no device takes",
                        f"its mode is {image.mode}; 8 bits of grey, RGB or a palette are taken",
                        "save it in RGB with 8 bits",
                    )
                image.load()
                with suppress(Exception):  # damaged EXIF says nothing, as on the device
                    ImageOps.exif_transpose(image, in_place=True)
                return _on_white(pillow, image), image.format == "PNG"
    except UnidentifiedImageError:
        raise UsageError(
            f"{what} is not a picture",
            f"it is none of {', '.join(READ)}",
            "save it as JPEG or PNG",
        ) from None
    except EdgekitError:
        raise
    except pillow.DecompressionBombError as error:
        raise UsageError(f"{what} has too many pixels", str(error), "scale it down") from None
    except Exception as error:  # a damaged file makes Pillow raise anything
        raise UsageError(
            f"{what} is cut off or damaged", str(error) or type(error).__name__, "save it anew"
        ) from None


def _on_white(pillow: Any, image: Image) -> Image:
    """The picture in RGB; what is transparent becomes white, as a device does it."""
    flat: Image = image
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = pillow.new("RGBA", colours.size, (255, 255, 255, 255))
        flat = pillow.alpha_composite(white, colours)
    flat = flat.convert("RGB")
    flat.info = {}  # Pillow would write a comment or a profile again
    return flat


def _check_shape(what: str, width: int, height: int) -> None:
    if min(width, height) < pictures.MIN_SIDE:
        raise UsageError(
            f"{what} is too small",
            f"it has {width} x {height} pixels; a side has at least {pictures.MIN_SIDE}",
            next_step="send a larger picture",
        )
    if max(width, height) > pictures.MAX_ASPECT * min(width, height):
        raise UsageError(
            f"{what} is too long for its width",
            f"it has {width} x {height} pixels; at most {pictures.MAX_ASPECT} to 1 is taken",
            "cut out the part that matters",
        )


def _scaled(image: Image, factor: float) -> Image:
    """The picture made smaller; what is rounded makes it no longer for its width than is taken."""
    if factor >= 1:
        return image
    width, height = (round(each * factor) for each in image.size)
    least = ceil(max(width, height) / pictures.MAX_ASPECT)
    size = max(width, least), max(height, least)
    return image.resize(size, _pillow().Resampling.LANCZOS, reducing_gap=2.0)


def _encoded(
    what: str, image: Image, limits: PictureLimits, *, is_png: bool
) -> tuple[bytes, Image]:
    """Encode a picture within the limits; it shrinks further where its bytes do not fit."""
    if is_png and len(data := _file(image, "PNG", optimize=True)) <= limits.bytes:
        return data, image
    while min(image.size) >= pictures.MIN_SIDE:
        for quality in QUALITIES:
            data = _file(image, "JPEG", quality=quality)
            if len(data) <= limits.bytes:
                return data, image
        image = _scaled(image, STEP)
    raise UsageError(
        f"{what} cannot be made smaller than {limits.bytes} bytes", next_step="send another picture"
    )


def _file(image: Image, kind: str, **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()
