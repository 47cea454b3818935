"""Puts the features of a picture's crops together as the model reads them. Pure.

A picture of h x w crops and a small view of the whole becomes rows, one for each place of the
prompt: the crops' cells line by line with a separator behind each line, one separator between the
two views, then the small view's cells in the same way. A view of 336 x 336 pixels has 12 x 12
cells. Source: Phi-3.5-vision's `Phi3ImageEmbedding` with `hd_transform_order` "sub_glb".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SIDE = 12  # cells
CROP_ROWS = 1 + SIDE * (SIDE + 1)  # of the vision graph for one crop alone

ROW_BITS = 32  # more than any picture has rows; with too few, a row would name another picture

Rows = npt.NDArray[np.float32]


def row_count(height: int, width: int) -> int:
    """Return the rows, that is tokens, of a picture of `height` x `width` crops."""
    return (height * width + 1) * SIDE * SIDE + 1 + (height + 1) * SIDE


def assemble(height: int, width: int, views: Sequence[Rows]) -> Rows:
    """Return a picture's rows, shape (`row_count`, hidden).

    Args:
        height: crops from top to bottom.
        width: crops from left to right.
        views: what the vision graph says of each view alone, shape (`CROP_ROWS`, hidden) each: the
            separator between views, then 12 lines of 12 cells and the separator behind a line. The
            small view of the whole comes first, then the crops line by line.
    """
    hidden = views[0].shape[1]
    between = views[0][:1]
    whole = views[0][1:]
    lines = np.stack([view[1:].reshape(SIDE, SIDE + 1, hidden) for view in views[1:]])
    behind = lines[0, 0, SIDE]
    cells = lines[:, :, :SIDE].reshape(height, width, SIDE, SIDE, hidden)
    cells = cells.transpose(0, 2, 1, 3, 4).reshape(height * SIDE, width * SIDE, hidden)
    ends = np.broadcast_to(behind, (height * SIDE, 1, hidden))
    crops = np.concatenate([cells, ends], axis=1).reshape(-1, hidden)
    return np.concatenate([crops, between, whole])


def items_of(key: int, tokens: int) -> list[int]:
    """Return a picture's slot items, below 0: one for each of its rows, told apart by content.

    Args:
        key: of the picture (`eyes.SeenPicture`).
        tokens: how many rows it has.
    """
    return [-1 - (key << ROW_BITS | row) for row in range(tokens)]


def row_of(item: int) -> tuple[int, int]:
    """Return the key of the picture and the number of the row that a slot item below 0 names."""
    known = -1 - item
    return known >> ROW_BITS, known & ((1 << ROW_BITS) - 1)
