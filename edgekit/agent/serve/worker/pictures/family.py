"""What differs between families of models that take pictures, and which family a model is of.

A family is one file: how a picture becomes views, what stands for it in a prompt, and how the
features of its views become rows. Everything else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Encode = Callable[[str], Sequence[int]]


class Grid(Protocol):
    """How a picture of some size is looked at; no pixel is needed for it."""

    @property
    def views(self) -> int:
        """How many views the model sees."""
        ...

    @property
    def layout(self) -> Sequence[str | int]:
        """What stands for it in a prompt: texts of control tokens, and numbers of rows."""
        ...


class Page(Protocol):
    """A picture on its grid."""

    @property
    def pixels(self) -> Pixels:
        """What its views are made of, shape (height, width, 3)."""
        ...

    @property
    def grid(self) -> Grid:
        """Its grid."""
        ...

    def view(self, number: int) -> Floats:
        """Return a view's pixels as the model takes them, shape (3, side, side)."""
        ...

    def rows(self, features: Sequence[Floats]) -> Floats:
        """Put the features of all views together, a row for each of the layout's."""
        ...


class VisionFamily(Protocol):
    """A family of models.

    Attributes:
        side: of a view, in pixels.
        view_rows: rows that the vision graph makes of one view alone.
        alone: what the vision graph takes beside the pixels of one view alone, by input.
        usual: the most crops with which the model's own processor looks at a picture.
    """

    @property
    def side(self) -> int: ...

    @property
    def view_rows(self) -> int: ...

    @property
    def alone(self) -> Mapping[str, npt.NDArray[np.int64]]: ...

    @property
    def usual(self) -> int: ...

    def crops(self, asked: int) -> int:
        """Return the most crops that any picture has, where so many are asked for at most."""
        ...

    def grid(self, width: int, height: int, crops: int) -> Grid:
        """Return the grid of a picture of this size in pixels, with so many crops at most."""
        ...

    def most_rows(self, crops: int) -> int:
        """Return the rows of a picture of any shape with so many crops at most."""
        ...

    def page(self, image: Image, crops: int) -> Page:
        """Put the upright picture in RGB on its grid."""
        ...


def places(grid: Grid, encode: Encode) -> int:
    """Return how many places a picture takes in a prompt.

    Args:
        encode: returns the tokens of a text of control tokens.
    """
    return sum(len(encode(part)) if isinstance(part, str) else part for part in grid.layout)


FAMILIES = ("phi3v", "smolvlm")
"""Types of models in genai_config.json. The module of that name here has `family`."""


def family_of(model: Mapping[str, Any]) -> VisionFamily:
    """Return the family of a model that takes pictures.

    Args:
        model: the section `model` of its genai_config.json.

    Raises:
        ValueError: this version knows no such family.
    """
    kind = model.get("type")
    if kind not in FAMILIES:
        raise ValueError(f"pictures for a model of type {kind} are not known here")
    module = import_module(f"{__package__}.{kind}")
    made: VisionFamily = module.family(model)
    return made
