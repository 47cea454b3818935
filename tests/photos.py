"""Pictures for tests: drawn ones, and hostile ones with the word that their refusal has."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"1:1": (400, 400), "3:1": (900, 300), "1:3": (300, 900), "small": (20, 30)}
"""Width and height of pictures of each layout."""


def drawn(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with soft colours, sharp edges and noise; another one for each seed."""
    rng = np.random.default_rng((seed, width, height))
    y, x = np.mgrid[0:height, 0:width]
    red, blue = x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1)
    noise = rng.integers(0, 256, (height, width))
    image = Image.fromarray(np.stack([red, noise, blue], -1).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        a, b = sorted(rng.integers(0, width, 2).tolist()), sorted(rng.integers(0, height, 2))
        draw.rectangle((a[0], b[0], a[1], b[1]), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    """The bytes of a file."""
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def png(width: int = 400, height: int = 400, seed: int = 0) -> bytes:
    """A drawn picture as PNG."""
    return encoded(drawn(width, height, seed))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, pixels: bytes, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG that says of itself what it is told to."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cut_jpegs(count: int = 20) -> list[bytes]:
    """A JPEG that was cut at so many places."""
    whole = encoded(drawn(400, 300), "JPEG", quality=90)
    return [whole[: len(whole) * place // (count + 1)] for place in range(1, count + 1)]


def many_scans(times: int = 2000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each costs a pass of the pixels."""
    whole = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + times * whole[last:-2] + b"\xff\xd9"


def huge_text() -> bytes:
    """A PNG with text that is small in the file and 512 MB in memory."""
    whole = png(64, 64)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(512 << 20), 1))
    return whole[:33] + text + whole[33:]


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Pictures that are refused: name, bytes, and a part of what the refusal says."""
    for place, data in enumerate(cut_jpegs(), 1):
        yield f"JPEG cut at {place}/21", data, "JPEG" if len(data) > 3 else "neither"
    whole = png()
    yield "PNG cut in the middle", whole[: len(whole) // 2], "cut off or damaged"
    yield (
        "PNG with a flipped bit in its header",
        whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        "damaged",
    )
    yield "PNG with a flipped bit in its pixels", whole[:90] + b"\0\1" + whole[92:], "sum of its"
    yield "PNG without its end", whole[:-12], "end is missing"
    yield "PNG bomb", png_of(30_000, 30_000, bytes(1 << 20)), "4,000,000"
    yield "PNG of 16 megapixels", png_of(4096, 4096, bytes(4096 * (3 * 4096 + 1))), "4,000,000"
    yield "PNG that holds less than it says", png_of(1000, 1000, bytes(100)), "damaged"
    yield "PNG with 512 MB of text", huge_text(), "damaged"
    yield "PNG without pixels", png_of(0, 0, b""), "PNG"
    yield "PNG header alone", whole[:8], "damaged"
    yield "GIF", encoded(drawn(64, 64), "GIF"), "neither JPEG nor PNG"
    yield "GIF renamed, with a PNG's first bytes", whole[:8] + encoded(drawn(64, 64), "GIF"), "PNG"
    yield "BMP", encoded(drawn(64, 64), "BMP"), "neither JPEG nor PNG"
    yield "TIFF", encoded(drawn(64, 64), "TIFF"), "neither JPEG nor PNG"
    yield "WebP", b"RIFF\x24\0\0\0WEBPVP8 " + bytes(24), "neither JPEG nor PNG"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>', "neither"
    yield "nothing", b"", "begins with nothing"
    yield "text", b"a picture of a cat", "neither JPEG nor PNG"
    yield "JPEG's first bytes alone", b"\xff\xd8\xff", "damaged"
    yield "10 MB of JPEG noise", b"\xff\xd8\xff\xe0" + b"\x5a" * (10 << 20), "damaged"
    yield "1 x 3,000", png(1, 3000), "16 to 4096 pixels"
    yield "15 x 15", png(15, 15), "16 to 4096 pixels"
    yield "4,097 wide", png(4097, 600), "16 to 4096 pixels"
    yield "9:1", png(900, 100), "longer than 8 times"
    yield "2,100 x 2,000", encoded(Image.new("RGB", (2100, 2000))), "4,000,000"
    yield "CMYK", encoded(drawn(64, 64).convert("CMYK"), "JPEG"), "CMYK"
    yield "16-bit grey", encoded(Image.new("I;16", (64, 64), 9)), "16 bits"
    yield "16-bit RGB", png_of(64, 64, bytes(64 * (6 * 64 + 1)), 16), "16 bits"
    yield "JPEG with thousands of scans", many_scans(), "scans"
    yield "EXIF that turns 9:1 upright", turned(drawn(100, 900), 6), "longer than 8 times"


def turned(image: Image.Image, orientation: int, format_: str = "JPEG") -> bytes:
    """A picture whose EXIF says how a camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format_, exif=exif, **({"quality": 95} if format_ == "JPEG" else {}))
