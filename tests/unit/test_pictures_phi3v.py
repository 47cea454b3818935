"""Crops and their rows are Hugging Face's: its processor restated, torch for the small view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgekit.agent.serve.worker.pictures.eyes import SeenPicture, picture_of
from edgekit.agent.serve.worker.pictures.phi3v import grid_of, page_of
from edgekit.agent.serve.worker.pictures.rows import (
    CROP_ROWS,
    assemble,
    items_of,
    row_count,
    row_of,
)
from edgekit.builder.tools.host import HostToolchain
from tests.building import run_script, silent
from tests.photos import drawn

SIZES = [(400, 400), (900, 300), (300, 900), (20, 30), (336, 336), (1344, 1344), (640, 480),
         (479, 641), (1000, 126), (127, 1000), (672, 337), (16, 16), (1999, 2000)]  # fmt: skip
CROPS = [1, 2, 4, 6, 16]


def restated(image: Image.Image, hd_num: int) -> Image.Image:
    """`HD_transform` of Phi-3.5-vision's processor, step by step as it is written there."""
    width, height = image.size
    transposed = width < height
    if transposed:
        image = image.transpose(Image.Transpose.TRANSPOSE)
        width, height = image.size
    ratio = width / height
    scale = 1
    while scale * np.ceil(scale / ratio) <= hd_num:
        scale += 1
    scale -= 1
    new_w = int(scale * 336)
    new_h = int(new_w / ratio)
    # torchvision resizes a Pillow image by Pillow
    image = image.resize((new_w, new_h), Image.Resampling.BILINEAR)
    target = int(np.ceil(new_h / 336) * 336)
    top = int((target - new_h) / 2)
    image = ImageOps.expand(image, (0, top, 0, target - new_h - top), (255, 255, 255))
    return image.transpose(Image.Transpose.TRANSPOSE) if transposed else image


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_grid_is_hugging_faces(width: int, height: int, crops: int) -> None:
    image = drawn(width, height)
    picture = page_of(image, crops)
    wanted = np.asarray(restated(image, crops))
    assert (picture.pixels == wanted).all()
    grid = grid_of(width, height, crops)
    assert picture.grid == grid
    assert (grid.height * 336, grid.width * 336) == wanted.shape[:2]
    assert grid.views <= crops + 1


def test_the_grid_of_any_size_is_hugging_faces() -> None:
    for width, height, crops in np.random.default_rng(1).integers(1, [4097, 4097, 17], (4000, 3)):
        if max(width, height) > 8 * min(width, height):
            continue
        grid = grid_of(int(width), int(height), int(crops))
        ratio = max(width, height) / min(width, height)
        scale = 1
        while scale * np.ceil(scale / ratio) <= crops:
            scale += 1
        long = (scale - 1) * 336
        short = int(long / ratio)
        assert (grid.long, grid.short) == (long, short)
        across = (long // 336, int(np.ceil(short / 336)))
        assert (grid.height, grid.width) == (across if width < height else across[::-1])


def test_the_views_are_torchs(tmp_path: Path) -> None:
    pictures = {
        f"{width}x{height} {crops}": page_of(drawn(width, height), crops)
        for width, height in [(400, 400), (900, 300), (300, 900), (20, 30)]
        for crops in (1, 4, 16)
    }
    pages: dict[str, Any] = {name: each.pixels for name, each in pictures.items()}
    np.savez(tmp_path / "pages.npz", **pages)
    run_script(
        HostToolchain().ready(silent).python,
        *("harness/inside/pictures_oracle.py", tmp_path / "pages.npz", tmp_path / "views.npz"),
    )
    wanted = np.load(tmp_path / "views.npz")
    for name, picture in pictures.items():
        views = np.stack([picture.view(number) for number in range(picture.grid.views)])
        assert views.shape == wanted[name].shape
        assert views.dtype == np.float32
        assert (views[1:] == wanted[name][1:]).all(), name
        assert np.abs(views[0] - wanted[name][0]).max() <= 2e-6, name


@pytest.mark.parametrize(
    ("width", "height", "crops", "tokens"),
    [(9, 9, 1, 313), (9, 9, 4, 757), (9, 9, 16, 2509), (9, 3, 16, 1909), (3, 9, 16, 1957)],
)
def test_tokens_are_counted_as_the_model_counts(
    width: int, height: int, crops: int, tokens: int
) -> None:
    grid = grid_of(100 * width, 100 * height, crops)
    assert grid.tokens == tokens
    h, w = grid.height, grid.width
    assert tokens == (h * w + 1) * 144 + 1 + (h + 1) * 12


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (4, 4), (2, 6), (6, 2), (1, 3)])
def test_rows_are_put_together_in_the_models_order(height: int, width: int) -> None:
    # each cell says where it lies: view, line, column; separators are negative
    views = []
    for view in range(1 + height * width):
        rows: list[list[float]] = [[-2, -2, -2]]
        for line in range(12):
            rows += [[view, line, column] for column in range(12)]
            rows.append([-1, -1, -1])
        views.append(np.array(rows, np.float32))
    assert all(len(view) == CROP_ROWS for view in views)
    found = assemble(height, width, views)
    wanted: list[list[float]] = []
    for line in range(height * 12):
        for column in range(width * 12):
            view = 1 + line // 12 * width + column // 12
            wanted.append([view, line % 12, column % 12])
        wanted.append([-1, -1, -1])
    wanted.append([-2, -2, -2])
    for line in range(12):
        wanted += [[0, line, column] for column in range(12)]
        wanted.append([-1, -1, -1])
    assert found.tolist() == wanted
    assert len(found) == row_count(height, width)
    assert found.dtype == np.float32


def seen(image: Image.Image, crops: int, owner: str) -> SeenPicture:
    return picture_of(page_of(image, crops), owner, lambda _: [])


def test_a_pictures_rows_are_told_apart_by_its_content_and_its_owner() -> None:
    image = drawn(400, 300)
    key = seen(image, 4, "ann").key
    assert seen(image.copy(), 4, "ann").key == key
    other = image.copy()
    other.putpixel((200, 150), (1, 2, 3))
    others = {
        seen(other, 4, "ann").key,
        seen(image, 1, "ann").key,
        seen(image, 4, "bob").key,
        seen(image.transpose(Image.Transpose.TRANSPOSE), 4, "ann").key,
    }
    assert len(others | {key}) == 5
    items = items_of(key, 2509)
    assert max(items) < 0
    assert len(set(items)) == 2509
    assert [row_of(item) for item in items] == [(key, row) for row in range(2509)]
