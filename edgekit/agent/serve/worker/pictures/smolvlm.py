"""Makes views of a picture as Hugging Face's processor of SmolVLM and Idefics3 does.

The picture is scaled until its longer side has as many crops as it may have, then to whole crops in
both directions, which changes its proportions a little. The model reads each crop, line by line,
and then all of it in the size of one crop; a picture of one crop is that view alone. Source:
`SmolVLMImageProcessorPil` and `SmolVLMProcessor` of transformers 5.23, with
`size["longest_edge"]` by the number of crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekit.agent.serve.worker.pictures.family import Floats, Pixels
from edgekit.core.pictures import MAX_CROPS

if TYPE_CHECKING:
    from PIL.Image import Image

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"
MIDDLE = np.float32(0.5)  # mean and deviation of every channel


@dataclass(frozen=True, slots=True)
class SmolVlmGrid:
    """The crops that a picture is scaled to fill.

    Attributes:
        height, width: crops from top to bottom, and from left to right.
        first: width and height that it is scaled to at first, in pixels.
        rows: of a view.
    """

    height: int
    width: int
    first: tuple[int, int]
    rows: int

    @property
    def views(self) -> int:
        """The crops and the view of the whole; one crop is the whole."""
        crops = self.height * self.width
        return crops + (crops > 1)

    @property
    def layout(self) -> Sequence[str | int]:
        """The text of `get_image_prompt_string`, with numbers of rows for its image tokens."""
        found: list[str | int] = []
        line_end = ""
        if self.views > 1:
            for line in range(1, self.height + 1):
                for column in range(1, self.width + 1):
                    found += [f"{line_end}{AROUND}<row_{line}_col_{column}>", self.rows]
                    line_end = ""
                line_end = "\n"
            line_end = "\n\n"
        return [*found, f"{line_end}{AROUND}{WHOLE}", self.rows, AROUND]


@dataclass(frozen=True, slots=True)
class SmolVlmPage:
    """A picture on its grid.

    Attributes:
        pixels: of the crops, shape (height, width, 3).
        small: all of it in the size of one crop.
        grid: its crops.
    """

    pixels: Pixels
    small: Pixels
    grid: SmolVlmGrid

    def view(self, number: int) -> Floats:
        """Return a crop's pixels, line by line, or last the whole's, shape (3, side, side)."""
        side = len(self.small)
        line, column = divmod(number, self.grid.width)
        crop = self.pixels[line * side :, column * side :][:side, :side]
        seen = crop if number < self.grid.views - 1 else self.small
        scaled = (seen.astype(np.float64) * (1 / 255)).astype(np.float32)
        return np.ascontiguousarray(((scaled - MIDDLE) / MIDDLE).transpose(2, 0, 1))

    def rows(self, features: Sequence[Floats]) -> Floats:
        """Put the features of all views together, shape (views * rows, hidden)."""
        return np.concatenate(features)


@dataclass(frozen=True, slots=True)
class SmolVlm:
    """The family, for a model whose views have this side in pixels and so many rows."""

    side: int
    view_rows: int
    usual: int = MAX_CROPS

    @property
    def alone(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """The graph takes pixels alone."""
        return {}

    def crops(self, asked: int) -> int:
        """Return the most crops that any picture has: those of a square."""
        return isqrt(asked) ** 2

    def grid(self, width: int, height: int, crops: int) -> SmolVlmGrid:
        """Return the grid of a picture of this size in pixels, with so many crops at most."""
        across, down = _longest(width, height, isqrt(crops) * self.side)
        ratio = across / down
        if across >= down:
            columns = ceil(across / self.side)
            lines = ceil(int(columns * self.side / ratio) / self.side)
        else:
            lines = ceil(down / self.side)
            columns = ceil(int(lines * self.side * ratio) / self.side)
        return SmolVlmGrid(lines, columns, (across, down), self.view_rows)

    def most_rows(self, crops: int) -> int:
        """Return the rows of a picture of any shape with so many crops at most."""
        return (crops + 1) * self.view_rows

    def page(self, image: Image, crops: int) -> SmolVlmPage:
        """Put the upright picture in RGB on its grid; each scaling rounds to 8 bits."""
        from PIL.Image import Resampling  # noqa: PLC0415  pack and canary have no Pillow

        grid = self.grid(*image.size, crops)
        whole = image.resize(grid.first, Resampling.LANCZOS)
        size = (grid.width * self.side, grid.height * self.side)
        whole = whole.resize(size, Resampling.LANCZOS)
        small = whole.resize((self.side, self.side), Resampling.LANCZOS)
        return SmolVlmPage(np.asarray(whole), np.asarray(small), grid)


def family(model: Mapping[str, Any]) -> SmolVlm:
    """Return the family of a model, by the section `model` of its genai_config.json."""
    vision = model["vision"]
    crops = vision.get("image_crops", MAX_CROPS)
    return SmolVlm(vision["image_size"], vision["image_seq_len"], crops)


def _longest(width: int, height: int, most: int) -> tuple[int, int]:
    """Scale a width and a height so that the longer one is `most`; the other one becomes even."""
    ratio = width / height
    if width >= height:
        other = int(most / ratio)
        return most, max(1, other + other % 2)
    other = int(most * ratio)
    return max(1, other + other % 2), most
