"""What a worker needs to see: tokens of a picture by its header, and the picture on its grid."""

from __future__ import annotations

from edgekit.agent.serve.worker.pictures.read import read, size_of
from edgekit.agent.serve.worker.pictures.transform import CroppedPicture, grid_of, picture_of


class PhiEyes:
    """Pictures for Phi-3.5-vision.

    Args:
        crops: the most crops of one picture.
    """

    def __init__(self, crops: int) -> None:
        self._crops = crops

    def tokens(self, data: bytes) -> int:
        """Return how many places a picture takes in a prompt; no pixel is decoded.

        Raises:
            PictureError: the picture is refused.
        """
        return grid_of(*size_of(data), self._crops).tokens

    def see(self, data: bytes, owner: str) -> CroppedPicture:
        """Decode a picture and put it on its grid.

        Raises:
            PictureError: the picture is refused.
        """
        return picture_of(read(data), self._crops, owner)
