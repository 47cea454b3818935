"""Makes views of a picture as Hugging Face's processor of Phi-3.5-vision does.

The picture is scaled to fill a grid of crops of 336 x 336 pixels, with white above and below (left
and right where it is taller than wide). The model reads a small view of the whole grid, and then
each crop. Source: `Phi3VImageProcessor` of microsoft/Phi-3.5-vision-instruct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekit.agent.serve.worker.pictures.family import Pixels
from edgekit.agent.serve.worker.pictures.rows import CROP_ROWS, Rows, assemble, row_count
from edgekit.core.pictures import MAX_CROPS

if TYPE_CHECKING:
    from PIL.Image import Image

CROP = 336  # pixels
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
WHITE = (255, 255, 255)
CUBIC = -0.75  # torch's coefficient; Pillow's is -0.5
ALONE = {"image_sizes": np.zeros((1, 2), np.int64)}  # a picture that is its own small view

View = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Phi3VGrid:
    """The crops that a picture is scaled to fill.

    Attributes:
        height, width: crops from top to bottom, and from left to right.
        long: pixels of the scaled picture's longer side, the grid's own.
        short: pixels of its shorter side.
    """

    height: int
    width: int
    long: int
    short: int

    @property
    def views(self) -> int:
        """The crops and the small view of the whole."""
        return 1 + self.height * self.width

    @property
    def tokens(self) -> int:
        """The places that the picture takes in a prompt."""
        return row_count(self.height, self.width)

    @property
    def layout(self) -> Sequence[str | int]:
        """Rows alone stand for it in a prompt."""
        return (self.tokens,)


def grid_of(width: int, height: int, crops: int) -> Phi3VGrid:
    """Return the largest grid of at most `crops` crops for a picture of this size in pixels."""
    ratio = max(width, height) / min(width, height)
    columns = 1
    while (columns + 1) * ceil((columns + 1) / ratio) <= crops:
        columns += 1
    short = int(columns * CROP / ratio)
    lines = ceil(short / CROP)
    across = (columns, lines) if width < height else (lines, columns)
    return Phi3VGrid(*across, columns * CROP, short)


@dataclass(frozen=True, slots=True)
class CroppedPicture:
    """A picture on its grid.

    Attributes:
        grid: its crops.
        pixels: of the crops, shape (height, width, 3).
    """

    grid: Phi3VGrid
    pixels: Pixels

    def view(self, number: int) -> View:
        """Return what the vision graph takes, shape (3, 336, 336).

        Args:
            number: 0 for the small view of the whole, then the crops line by line.
        """
        if number == 0:
            return _channels_first(_small(self.pixels))
        line, column = divmod(number - 1, self.grid.width)
        crop = self.pixels[line * CROP :, column * CROP :][:CROP, :CROP]
        return _channels_first(_normalized(crop))

    def rows(self, features: Sequence[Rows]) -> Rows:
        """Put the features of all views together, shape (tokens, hidden)."""
        return assemble(self.grid.height, self.grid.width, features)


@dataclass(frozen=True, slots=True)
class Phi3V:
    """The family; its models differ in how many crops their processors cut."""

    usual: int = MAX_CROPS

    side, view_rows, alone = CROP, CROP_ROWS, ALONE

    def crops(self, asked: int) -> int:
        """Return the most crops that any picture has: all, if its sides are right."""
        return asked

    def grid(self, width: int, height: int, crops: int) -> Phi3VGrid:
        """Return the grid of a picture of this size in pixels, with so many crops at most."""
        return grid_of(width, height, crops)

    def most_rows(self, crops: int) -> int:
        """Return the rows of a picture of any shape with so many crops at most."""
        return row_count(crops, 1)

    def page(self, image: Image, crops: int) -> CroppedPicture:
        """Put the upright picture in RGB on its grid."""
        return page_of(image, crops)


def family(model: Mapping[str, Any]) -> Phi3V:
    """Return the family of a model, by the section `model` of its genai_config.json."""
    return Phi3V(model["vision"].get("image_crops", MAX_CROPS))


def page_of(image: Image, crops: int) -> CroppedPicture:
    """Put a picture on its grid.

    Args:
        image: the upright picture in RGB.
        crops: the most crops that it may have.
    """
    from PIL import Image as pillow  # noqa: N813, PLC0415  pack and canary have no Pillow

    grid = grid_of(*image.size, crops)
    tall = image.width < image.height
    if tall:  # scaling rounds after each axis, so the order of the axes counts
        image = image.transpose(pillow.Transpose.TRANSPOSE)
    scaled = image.resize((grid.long, grid.short), pillow.Resampling.BILINEAR)
    page = pillow.new("RGB", (grid.long, ceil(grid.short / CROP) * CROP), WHITE)
    page.paste(scaled, (0, (page.height - grid.short) // 2))
    if tall:
        page = page.transpose(pillow.Transpose.TRANSPOSE)
    return CroppedPicture(grid, np.asarray(page))


def _normalized(pixels: Pixels) -> View:
    scaled: View = pixels.astype(np.float32) / np.float32(255)
    return (scaled - MEAN) / DEVIATION


def _channels_first(view: View) -> View:
    return np.ascontiguousarray(view.transpose(2, 0, 1))


def _small(page: Pixels) -> View:
    """Scale the page to one crop, as `torch.nn.functional.interpolate(mode="bicubic")` does.

    That is without antialias: each result is a sum of four pixels along each axis.
    """
    lines = _taps(page.shape[0])
    columns = _taps(page.shape[1])
    down = sum(weight[:, None, None] * _normalized(page[at]) for at, weight in lines)
    across: View = sum(weight[:, None] * np.take(down, at, axis=1) for at, weight in columns)
    return across


def _taps(size: int) -> Sequence[tuple[npt.NDArray[np.intp], View]]:
    """Return for each of the four taps which of `size` pixels it takes, and their weights."""
    centres = (np.arange(CROP) + 0.5) * (size / CROP) - 0.5
    first = np.floor(centres)
    part = centres - first
    near, far = _near(part), _far(part + 1)
    weights = (far, near, _near(1 - part), _far(2 - part))
    places = (np.clip(first + tap, 0, size - 1).astype(np.intp) for tap in (-1, 0, 1, 2))
    return [(at, weight.astype(np.float32)) for at, weight in zip(places, weights, strict=True)]


def _near(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cubic convolution within one pixel (Keys 1981)."""
    return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1


def _far(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same, from one to two pixels."""
    return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
