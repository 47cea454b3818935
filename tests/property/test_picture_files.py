"""Whatever a picture's file holds, it is read as pixels within the bounds, or refused plainly."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.agent.serve.worker.pictures.eyes import FamilyEyes
from edgekit.agent.serve.worker.pictures.phi3v import Phi3V
from edgekit.agent.serve.worker.pictures.read import PictureError, read, size_of
from edgekit.agent.serve.worker.pictures.smolvlm import SmolVlm
from edgekit.core.pictures import MAX_ASPECT, MAX_PIXELS, MAX_SIDE, MIN_SIDE
from tests.photos import drawn, encoded, turned

SETTINGS = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@functools.cache
def files() -> tuple[bytes, ...]:
    image = drawn(48, 32)
    return (
        encoded(image),
        encoded(image.convert("P")),
        encoded(image.convert("LA")),
        encoded(image, save_all=True, append_images=[drawn(48, 32, 1)]),
        turned(image, 6, "PNG"),
        encoded(image, "JPEG"),
        encoded(image, "JPEG", progressive=True),
        encoded(image, "MPO", save_all=True, append_images=[drawn(48, 32, 1)]),
        turned(image, 8),
    )


changes = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6)


@SETTINGS
@given(which=st.integers(0, 8), changed=changes, cut=st.floats(0, 1) | st.just(1.0))
def test_a_changed_file_is_pixels_or_a_plain_refusal(
    which: int, changed: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(files()[which])
    for place, new in changed:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    given_ = bytes(data[: int(cut * len(data))])
    refusal = None
    try:
        width, height = size_of(given_)
        image = read(given_)
    except PictureError as error:
        refusal = error
    if refusal is not None:
        assert refusal.what
        assert refusal.why
        assert refusal.next_step
        return
    assert (image.mode, image.size) == ("RGB", (width, height))
    assert MIN_SIDE <= min(image.size) <= max(image.size) <= MAX_SIDE
    assert width * height <= MAX_PIXELS
    assert max(image.size) <= MAX_ASPECT * min(image.size)
    for family in (Phi3V(), SmolVlm(128, 16)):
        eyes = FamilyEyes(family, 4, lambda text: [1] * len(text))
        seen = eyes.see(given_, "ann")
        assert len(seen.items) == eyes.tokens(given_)
        features = [np.zeros((family.view_rows, 2), np.float32)] * seen.views
        assert len(seen.rows(features)) == sum(item < 0 for item in seen.items)
