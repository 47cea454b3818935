"""What a worker needs to see: tokens of a picture by its header, and the picture on its grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.agent.serve.worker.pictures.family import Encode, Floats, Page, VisionFamily, places
from edgekit.agent.serve.worker.pictures.read import read, size_of
from edgekit.agent.serve.worker.pictures.rows import items_of


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """A decoded picture.

    Attributes:
        page: the picture on its grid.
        key: names the picture by its pixels and by the requester that sent it, in 256 bits. So
            nothing is kept of one requester's picture that makes another one's cheaper, and tells
            by its time whether this device has seen it.
        items: the slot items that stand for the picture in a prompt.
    """

    page: Page
    key: int
    items: list[int]

    @property
    def views(self) -> int:
        """How many views it has."""
        return self.page.grid.views

    def view(self, number: int) -> Floats:
        """Return what the vision graph takes of a view."""
        return self.page.view(number)

    def rows(self, features: Sequence[Floats]) -> Floats:
        """Put the features of all views together."""
        return self.page.rows(features)


class FamilyEyes:
    """Pictures for a model of some family.

    Args:
        family: the model's.
        crops: the most crops of one picture.
        encode: returns the tokens of a text of control tokens.
    """

    def __init__(self, family: VisionFamily, crops: int, encode: Encode) -> None:
        self._family, self._crops, self._encode = family, crops, encode

    def tokens(self, data: bytes) -> int:
        """Return how many places a picture takes in a prompt; no pixel is decoded.

        Raises:
            PictureError: the picture is refused.
        """
        return places(self._family.grid(*size_of(data), self._crops), self._encode)

    def see(self, data: bytes, owner: str) -> SeenPicture:
        """Decode a picture and put it on its grid.

        Raises:
            PictureError: the picture is refused.
        """
        return picture_of(self._family.page(read(data), self._crops), owner, self._encode)


def picture_of(page: Page, owner: str, encode: Encode) -> SeenPicture:
    """Name a picture on its grid.

    Args:
        owner: the requester that sent it.
        encode: returns the tokens of a text of control tokens.
    """
    owned = f"{len(owner)} {owner} {page.pixels.shape}".encode()
    key = int.from_bytes(hashlib.sha256(owned + page.pixels.tobytes()).digest(), "big")
    items: list[int] = []
    rows = iter(items_of(key, sum(part for part in page.grid.layout if isinstance(part, int))))
    for part in page.grid.layout:
        items += encode(part) if isinstance(part, str) else [next(rows) for _ in range(part)]
    return SeenPicture(page, key, items)
