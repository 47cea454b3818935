"""Draws the pictures that a model is measured on: shapes by code, with a fixed seed.

Nothing is taken from elsewhere, and the same pictures come out on every machine.
"""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np

SIDE = 336  # of a crop for which the sizes of the shapes are written
QUESTION = "What is in this picture?"
_SEED = 20261130
_COLOURS = {
    "red": (214, 40, 40), "green": (42, 157, 80), "blue": (36, 99, 201), "yellow": (244, 201, 40),
    "black": (24, 24, 24), "white": (245, 245, 245), "orange": (240, 128, 30),
    "purple": (122, 56, 160),
}  # fmt: skip
_CROPS = ((1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 1))
"""Height and width of each picture in crops; with one crop each for the most part, because a large
model reads the picture on this machine's CPU."""
_THUMBNAIL = 6  # pixels of a picture that become one


@dataclass(frozen=True)
class Drawing:
    """A picture with what is in it.

    Attributes:
        pixels: u8 [height, width, 3], both multiples of a crop's side.
        answer: the fixed answer that a model reads after the question.
    """

    pixels: np.ndarray
    answer: str


def drawings(side: int) -> list[Drawing]:
    """The pictures, always the same.

    Args:
        side: of a crop, in pixels.
    """
    random = np.random.default_rng(_SEED)
    made = []
    for number, (height, width) in enumerate(_CROPS):
        ground, ink = random.choice(list(_COLOURS), 2, replace=False)
        shape = list(_SHAPES)[number % len(_SHAPES)]
        pixels = np.empty((height * side, width * side, 3), np.uint8)
        pixels[:] = _COLOURS[ground]
        y, x = np.mgrid[: height * side, : width * side].astype(np.float32)
        middle = random.uniform(0.4, 0.6, 2) * pixels.shape[:2]
        size = random.uniform(70, 120) * side / SIDE
        pixels[_SHAPES[shape]((y - middle[0]) / size, (x - middle[1]) / size)] = _COLOURS[ink]
        made.append(Drawing(pixels, f"A {ink} {shape} on a {ground} ground."))
    return made


_SHAPES = {
    "circle": lambda y, x: y * y + x * x < 1,
    "square": lambda y, x: np.maximum(abs(y), abs(x)) < 1,
    "triangle": lambda y, x: (y < 1) & (y > 2 * abs(x) - 1),
    "ring": lambda y, x: abs(np.sqrt(y * y + x * x) - 0.8) < 0.2,
    "cross": lambda y, x: (np.minimum(abs(y), abs(x)) < 0.3) & (np.maximum(abs(y), abs(x)) < 1),
    "striped square": lambda y, x: (np.maximum(abs(y), abs(x)) < 1) & (np.floor(y * 4) % 2 == 0),
}


def thumbnail(pixels: np.ndarray) -> str:
    """A small PNG of a picture, as the text of a `data:` URL."""
    small = np.ascontiguousarray(pixels[::_THUMBNAIL, ::_THUMBNAIL])
    height, width, _ = small.shape
    rows = b"".join(b"\0" + row.tobytes() for row in small)  # each row begins with its filter, none
    # https://www.w3.org/TR/png: 8 bits, RGB
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
