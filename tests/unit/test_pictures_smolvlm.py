"""Views and places are those of transformers' own processors of SmolVLM and Idefics3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest

from edgekit.agent.serve.worker.pictures.eyes import FamilyEyes, picture_of
from edgekit.agent.serve.worker.pictures.family import family_of, places
from edgekit.agent.serve.worker.pictures.rows import row_of
from edgekit.agent.serve.worker.pictures.smolvlm import SmolVlm
from edgekit.agent.serve.worker.pictures.taken import images_taken
from edgekit.builder.tools.host import HostToolchain
from tests.building import run_script, silent
from tests.photos import drawn, png

SIZES = [(400, 400), (900, 300), (300, 900), (20, 30), (128, 128), (640, 480), (479, 641),
         (1000, 126), (127, 1000), (16, 16), (255, 257), (513, 511)]  # fmt: skip
CROPS = [1, 4, 9, 16]
SMOL = SmolVlm(128, 16)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers makes of each picture and number of crops: views, and the prompt's text."""
    work = tmp_path_factory.mktemp("oracle")
    pages: dict[str, Any] = {f"{w}x{h}": np.asarray(drawn(w, h)) for w, h in SIZES}
    np.savez(work / "pages.npz", **pages)
    run_script(
        HostToolchain().ready(silent).python,
        *("harness/inside/smolvlm_oracle.py", work / "pages.npz", work / "views.npz"),
        *(str(SMOL.side), str(SMOL.view_rows), *map(str, CROPS)),
        PILLOW=str(Path(PIL.__file__).parents[1]),
    )
    with np.load(work / "views.npz") as found:
        return dict(found)


@pytest.mark.parametrize("crops", CROPS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_views_and_places_are_transformers_own(
    width: int, height: int, crops: int, oracle: dict[str, Any]
) -> None:
    name = f"{width}x{height} {crops}"
    page = SMOL.page(drawn(width, height), crops)
    views = np.stack([page.view(number) for number in range(page.grid.views)])
    assert views.dtype == np.float32
    assert views.shape == oracle[name].shape
    assert np.array_equal(views, oracle[name])
    texts = [part if isinstance(part, str) else "<image>" * part for part in page.grid.layout]
    assert "".join(texts) == str(oracle[f"{name} text"])
    assert page.grid.views <= crops + 1
    assert sum(part for part in page.grid.layout if isinstance(part, int)) <= SMOL.most_rows(crops)


def test_no_picture_has_more_crops_than_it_may() -> None:
    for width, height, crops in np.random.default_rng(1).integers(1, [4097, 4097, 17], (4000, 3)):
        if max(width, height) <= 8 * min(width, height):
            grid = SMOL.grid(int(width), int(height), int(crops))
            assert 1 <= grid.height * grid.width <= crops


def test_a_picture_is_texts_and_rows_in_the_models_order() -> None:
    def encode(text: str) -> list[int]:
        return [len(text)]

    page = SMOL.page(drawn(300, 300), 4)
    picture = picture_of(page, "ann", encode)
    assert len(picture.items) == places(page.grid, encode) == 5 * 16 + 6
    assert [row_of(each) for each in picture.items if each < 0] == [
        (picture.key, row) for row in range(5 * 16)
    ]
    assert picture.items[0] > 0
    assert picture.items[-1] > 0
    features = [np.full((16, 3), view, np.float32) for view in range(5)]
    rows = picture.rows(features)
    assert rows[:, 0].tolist() == [view for view in range(5) for _ in range(16)]
    assert picture_of(page, "bob", encode).key != picture.key


def test_each_row_of_the_largest_picture_is_told_apart() -> None:
    """17 views of 256 rows: the last ones had the items of the first ones."""
    picture = picture_of(SmolVlm(128, 256).page(drawn(300, 300), 16), "ann", lambda _: [5])
    rows = [row_of(each) for each in picture.items if each < 0]
    assert rows == [(picture.key, row) for row in range(17 * 256)]


def test_tokens_are_counted_by_the_header_alone() -> None:
    eyes = FamilyEyes(SMOL, 16, lambda text: list(text.encode()))
    for size in SIZES:
        data = png(*size)
        assert eyes.tokens(data) == len(eyes.see(data, "ann").items)


def test_a_model_of_no_known_family_is_refused_by_its_type() -> None:
    with pytest.raises(ValueError, match="type gemma3 are not known"):
        family_of({"type": "gemma3", "vision": {}})
    model = {"type": "smolvlm", "vision": {"image_size": 512, "image_seq_len": 64}}
    assert family_of(model) == SmolVlm(512, 64, 16)
    vision = {"image_size": 512, "image_seq_len": 64, "image_crops": 1}
    assert family_of({"type": "smolvlm", "vision": vision}) == SmolVlm(512, 64, 1)


def test_nobody_looks_at_more_crops_than_the_models_own_processor_unless_told_so() -> None:
    whole = SmolVlm(128, 16, 1)
    phi = family_of({"type": "phi3v", "vision": {"image_crops": 1}})
    for asked, crops in ((0, 1), (4, 4)):
        for each in (whole, phi):
            assert images_taken(asked, 1, 32 * 10**9, each, lambda _: []).crops == crops
    assert images_taken(0, 1, 32 * 10**9, SMOL, lambda _: []).crops == 4


@pytest.mark.parametrize(("asked", "crops"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 9), (15, 9)])
def test_the_card_says_the_crops_that_a_picture_gets(asked: int, crops: int) -> None:
    taken = images_taken(asked, 1, 32 * 10**9, SMOL, lambda _: [])
    assert taken.crops == crops
    shapes = [SMOL.grid(width, height, asked) for width, height in SIZES]
    assert max(grid.height * grid.width for grid in shapes) == crops
