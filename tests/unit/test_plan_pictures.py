"""What a plan says of pictures, for Phi-3.5-vision in its real size, by the headers alone."""

from __future__ import annotations

import ast
import re

import pytest

from edgekit.builder.plan import pictures
from edgekit.builder.plan.pictures import (
    PictureCost,
    TextCost,
    VisionShape,
    gate_seconds,
    picture_costs,
    tokens_of,
    vision_of,
)
from edgekit.builder.plan.profiles import PROFILES
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.tools.process import INSIDE

GIB = 2**30
MACHINE = 16 * GIB
VISION = "model.vision_embed_tokens."
TOWER = f"{VISION}img_processor.vision_model."


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (32064, 3072),
    f"{TOWER}embeddings.class_embedding": (1024,),
    f"{TOWER}embeddings.patch_embedding.weight": (1024, 3, 14, 14),
    f"{TOWER}embeddings.position_embedding.weight": (577, 1024),
    f"{VISION}glb_GN": (1, 1, 4096),
    f"{VISION}sub_GN": (1, 1, 1, 4096),
    **affine(f"{VISION}img_projection.0", 3072, 4096),
    **affine(f"{VISION}img_projection.2", 3072, 3072),
}
for layer in range(24):
    at = f"{TOWER}encoder.layers.{layer}"
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        SHAPES |= affine(f"{at}.self_attn.{part}", 1024, 1024)
    SHAPES |= affine(f"{at}.mlp.fc1", 4096, 1024) | affine(f"{at}.mlp.fc2", 1024, 4096)
TENSORS = {name: Tensor("BF16", size) for name, size in SHAPES.items()}
# as a plan of the whole model has it
INT4 = TextCost(2_370_000_000, 786_432, 3_722_000_000, True)
FP32 = TextCost(14_900_000_000, 786_432, 3_722_000_000, False)


def shape(precision: VisionPrecision) -> VisionShape:
    return vision_of(TENSORS, precision, 4096)


def costs(precision: VisionPrecision, text: TextCost = INT4) -> tuple[PictureCost, ...]:
    return picture_costs(shape(precision), text, 2, MACHINE, PROFILES)


def test_the_parts_have_the_size_that_was_measured() -> None:
    assert shape("fp32").vision_bytes / 2**20 == pytest.approx(1167, rel=0.05)
    assert shape("int8").vision_bytes / 2**20 == pytest.approx(333, rel=0.05)
    assert shape("int8").embedding_bytes == 32064 * 3072 * 2
    assert shape("fp32").parameters == pytest.approx(291e6, rel=0.01)


@pytest.mark.parametrize(("crops", "tokens"), [(1, 313), (4, 757), (16, 2509)])
def test_a_square_picture_takes_so_many_tokens(crops: int, tokens: int) -> None:
    assert tokens_of(crops) == tokens


def test_more_crops_take_more_of_everything() -> None:
    precisions: tuple[VisionPrecision, ...] = ("fp32", "int8")
    for precision in precisions:
        one, four, sixteen = costs(precision)
        assert one.memory_bytes < four.memory_bytes < sixteen.memory_bytes
        for a, b, c in zip(one.devices, four.devices, sixteen.devices, strict=True):
            assert a.seconds[0] < a.seconds[1]
            assert a.seconds < b.seconds < c.seconds


def test_on_this_machine_it_takes_what_was_measured() -> None:
    one, four, sixteen = costs("fp32")
    # 6, 15 and 51 s of two CPUs for the views, and what 30 to 50 tokens/s of a CPU take
    for cost, views in ((one, 2), (four, 5), (sixteen, 17)):
        low, high = cost.devices[0].seconds
        seeing = views * 6.25 / 2
        assert low == pytest.approx(seeing + cost.tokens / 100, rel=0.05)
        assert high == pytest.approx(seeing + cost.tokens / 60, rel=0.05)


def test_the_gate_s_pictures_take_minutes_and_less_once_the_reference_is_there() -> None:
    first, again = gate_seconds(shape("int8"), INT4, 2)
    assert 60 < again < first < 15 * 60
    assert gate_seconds(shape("int8"), INT4, 8)[0] < first / 3


def test_the_gate_s_amounts_are_those_of_its_drawings() -> None:
    """The crops of `inside/gate/drawing.py`, which only the toolchain imports."""
    text = (INSIDE / "gate" / "drawing.py").read_text("utf-8")
    found = re.search(r"^_CROPS = (\(.+\))$", text, re.MULTILINE)
    assert found
    crops = ast.literal_eval(found[1])
    assert len(crops) == pictures._GATE_PICTURES
    assert crops.count((1, 1)) == pictures._GATE_SWAPPED
    assert sum(1 + h * w for h, w in crops) == pictures._GATE_VIEWS
    rows = sum((h * w + 1) * 144 + 1 + (h + 1) * 12 for h, w in crops)
    assert rows == pictures._GATE_ROWS


def test_a_device_that_lacks_the_memory_is_named() -> None:
    fits = {time.device: time.fits for time in costs("int8")[0].devices}
    assert not fits["Raspberry Pi 5, 4 GB"]
    assert fits["Raspberry Pi 5, 8 GB"]
    assert not any(time.fits for time in costs("fp32", FP32)[0].devices)
