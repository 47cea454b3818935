"""What the worker asks of pictures; `eyes` has the real ones, which need Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Seen(Protocol):
    """A decoded picture, whose features are computed view by view."""

    @property
    def key(self) -> int:
        """Names the picture by its pixels and its requester."""
        ...

    @property
    def items(self) -> list[int]:
        """The slot items that stand for it in a prompt: its rows below 0 (`rows`), and texts."""
        ...

    @property
    def views(self) -> int:
        """How many views it has."""
        ...

    def view(self, number: int) -> Floats:
        """Return the pixels of a view, shape (3, side, side)."""
        ...

    def rows(self, features: Sequence[Floats]) -> Floats:
        """Put the features of all views together, in the order of the items below 0."""
        ...


class Eyes(Protocol):
    """Reads pictures for one model."""

    def tokens(self, data: bytes) -> int:
        """Return how many places a picture takes in a prompt; no pixel is decoded.

        Raises:
            EdgekitError: the picture is refused.
        """
        ...

    def see(self, data: bytes, owner: str) -> Seen:
        """Decode a picture that the requester `owner` sent.

        Raises:
            EdgekitError: the picture is refused.
        """
        ...
