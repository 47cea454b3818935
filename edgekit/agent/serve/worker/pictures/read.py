"""Reads a stranger's picture: an upright RGB image, or a plain refusal.

Only JPEG and PNG reach Pillow, by their magic bytes, and the size is checked before a pixel is
decoded. Of an animation the first frame counts, that is what a program shows which knows no
animations. Transparent pixels lie on white, the colour around a picture that is not a whole number
of crops.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from edgekit.core.pictures import MAX_ASPECT, MAX_PIXELS, MAX_SIDE, MIN_SIDE, format_of
from edgekit.errors import EdgekitError
from edgekit.tokens.bounds import bounded

PILLOWS = {"image/jpeg": "JPEG", "image/png": "PNG"}
SCAN = b"\xff\xda"  # begins a scan of a JPEG; the coded pixels never hold these two bytes
MAX_SCANS = 64  # each costs a pass over the pixels; progressive files have about 10
SECONDS = 10.0  # 4 megapixels take 0.1 s on a PC
MEMORY_BYTES = 256 << 20
ORIENTATION = 0x0112  # the tag of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its orientation (EXIF 2.3, table 6)."""
TURNED = (5, 6, 7, 8)  # width and height change places
_TELLING = (b"eXIf", b"iTXt", b"zTXt", b"tEXt")  # XMP and ImageMagick's EXIF are texts


class PictureError(EdgekitError):
    """A picture that is refused."""


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height of the upright picture, by its header alone.

    Args:
        data: the bytes of a JPEG or PNG file.

    Raises:
        PictureError: it is neither, it is damaged, or its size, shape or colours are not taken.
    """
    with _opened(data) as image:
        width, height = image.size
        return (height, width) if _orientation(image, data) in TURNED else (width, height)


def read(data: bytes) -> Image.Image:
    """Return the upright picture in RGB, 8 bits each.

    Args:
        data: the bytes of a JPEG or PNG file.

    Raises:
        PictureError: as `size_of`, or the pixels are cut off or damaged.
    """
    with _opened(data) as image:
        if image.format == "PNG":
            _check_sums(data)
        image.load()
        turn = UPRIGHT.get(_orientation(image, data))
        flat = _on_white(image)
        return flat if turn is None else flat.transpose(turn)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open a picture of a format, size and kind that is taken; errors of Pillow become plain."""
    format_ = _format(data)
    try:
        with (
            bounded(SECONDS, MEMORY_BYTES),
            warnings.catch_warnings(action="ignore"),  # else strangers fill the log
            Image.open(io.BytesIO(data), formats=[format_]) as image,
        ):
            _check_size(*image.size)
            _check_colours(image, data)
            yield image
    except PictureError:
        raise
    except Image.DecompressionBombError as error:  # before the size can be asked for
        raise PictureError(
            f"the picture has more than {MAX_PIXELS:,} pixels", str(error), "scale it down"
        ) from error
    except (TimeoutError, MemoryError) as error:
        raise PictureError(
            "the picture takes too much to decode",
            f"more than {SECONDS:g} s or {MEMORY_BYTES >> 20} MB",
            "open it in an image editor and save it anew",
        ) from error
    except Exception as error:  # a hostile file makes Pillow raise anything
        raise PictureError(
            f"the {format_} picture is cut off or damaged",
            str(error) or type(error).__name__,
            "send the whole file, or save it anew",
        ) from error


def _format(data: bytes) -> str:
    name = PILLOWS.get(format_of(data))
    if name is None:
        raise PictureError(
            "the picture is neither JPEG nor PNG",
            f"it begins with {data[:8].hex(' ') or 'nothing'}",
            "save it as JPEG or PNG",
        )
    if name == "JPEG" and data.count(SCAN) > MAX_SCANS:
        raise PictureError(
            f"the JPEG picture has more than {MAX_SCANS} scans",
            "each costs a pass over all pixels",
            "save it anew, as baseline or usual progressive JPEG",
        )
    return name


def _check_sums(data: bytes) -> None:
    """Refuse a PNG whose sums say that it was changed or cut off; Pillow reads the pixels anyway.

    Only chunks that a reader must know count (PNG, section 5.4).

    Raises:
        ValueError: a sum is wrong, or the last chunk is missing.
    """
    for kind, body, said in _chunks(data):
        if not kind[0] & 0x20 and zlib.crc32(body, zlib.crc32(kind)) != said:
            raise ValueError(f"the sum of its chunk {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"IEND":
            return
    raise ValueError("its end is missing")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Yield the chunks of a PNG: kind, content, and the sum that it says."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        yield (
            bytes(view[at + 4 : at + 8]),
            view[at + 8 : end],
            int.from_bytes(view[end : end + 4], "big"),
        )
        at = end + 4


def _check_size(width: int, height: int) -> None:
    size = f"it has {width} x {height} pixels"
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise PictureError(
            f"the picture's sides must be of {MIN_SIDE} to {MAX_SIDE} pixels", size, "scale it"
        )
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"the picture has more than {MAX_PIXELS:,} pixels",
            size,
            "scale it down; 672 pixels on the long side are enough for most questions",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(
            f"the picture is longer than {MAX_ASPECT} times its width",
            size,
            "cut out the part that matters",
        )


def _check_colours(image: Image.Image, data: bytes) -> None:
    if image.mode == "CMYK":
        raise PictureError(
            "the picture's colours are CMYK",
            "they are inks, and which colours they show depends on a printer's profile",
            "save it in RGB",
        )
    if image.format == "PNG" and data[12:16] != b"IHDR":
        raise PictureError(
            "the PNG picture is damaged", "it does not begin with its header", "save it anew"
        )
    # in a PNG's header, the byte behind width and height
    if image.format == "PNG" and data[24:25] == b"\x10":
        raise PictureError(
            "the picture has 16 bits for each colour", "8 are taken", "save it with 8 bits"
        )


def _orientation(image: Image.Image, data: bytes) -> int:
    """Return the orientation in EXIF, or else in XMP, as Pillow finds it.

    Of a PNG it may lie behind the pixels, and Pillow would decode these to get there.
    """
    try:
        if image.format == "PNG":
            with Image.open(io.BytesIO(_without_pixels(data)), formats=["PNG"]) as told:
                # not the PNG's own, which decodes
                found = Image.Image.getexif(told).get(ORIENTATION, 1)
        else:
            found = image.getexif().get(ORIENTATION, 1)
    except (TimeoutError, MemoryError):
        raise
    except Exception:  # damaged EXIF says nothing, as in a browser
        return 1
    return found if isinstance(found, int) else 1


def _without_pixels(data: bytes) -> bytes:
    """Return a PNG's header, all that may tell its orientation, and then no pixels."""
    told = [data[:33]]
    for kind, body, _ in _chunks(data):
        if kind == b"IEND":
            break
        if kind in _TELLING:
            told.append(_chunk(kind, bytes(body)))
    return b"".join([*told, _chunk(b"IDAT", b"")])


def _chunk(kind: bytes, body: bytes) -> bytes:
    length, total = (each.to_bytes(4, "big") for each in (len(body), zlib.crc32(kind + body)))
    return length + kind + body + total


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, colours).convert("RGB")
