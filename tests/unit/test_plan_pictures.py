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
CONFIG = {"architectures": ["Phi3VForCausalLM"], "original_max_position_embeddings": 4096}
TENSORS = {name: Tensor("BF16", size) for name, size in SHAPES.items()}
# as a plan of the whole model has it
INT4 = TextCost(2_370_000_000, 786_432, 3_722_000_000, True)
FP32 = TextCost(14_900_000_000, 786_432, 3_722_000_000, False)


def shape(precision: VisionPrecision) -> VisionShape:
    return vision_of(CONFIG, TENSORS, precision)


def costs(precision: VisionPrecision, text: TextCost = INT4) -> tuple[PictureCost, ...]:
    return picture_costs(shape(precision), text, 2, MACHINE, PROFILES)


def test_the_parts_have_the_size_that_was_measured() -> None:
    assert shape("fp32").vision_bytes / 2**20 == pytest.approx(1167, rel=0.05)
    assert shape("int8").vision_bytes / 2**20 == pytest.approx(333, rel=0.05)
    assert shape("int8").embedding_bytes == 32064 * 3072 * 2
    assert shape("fp32").parameters == pytest.approx(291e6, rel=0.01)


def test_square_pictures_take_so_many_tokens() -> None:
    assert [(each.views, each.tokens) for each in shape("int8").squares] == [
        *((2, 313), (5, 757), (17, 2509)),
    ]


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
    assert crops == pictures._GATE_CROPS
    assert sum(each.views for each in shape("int8").gate) == 18
    assert sum(each.tokens for each in shape("int8").gate) == 2804


# SmolVLM-256M: SigLIP-base in 512 pixels, and a text part of 163 M parameters
SMOLVLM = {
    "architectures": ["SmolVLMForConditionalGeneration"],
    "scale_factor": 4,
    "text_config": {"model_type": "llama"},
    "vision_config": {"hidden_size": 768, "image_size": 512, "num_attention_heads": 12,
                      "patch_size": 16},
}  # fmt: skip
SIGLIP = "model.vision_model."
SMALL: dict[str, tuple[int, ...]] = {
    "model.text_model.embed_tokens.weight": (49280, 576),
    f"{SIGLIP}embeddings.patch_embedding.weight": (768, 3, 16, 16),
    f"{SIGLIP}embeddings.position_embedding.weight": (1024, 768),
    "model.connector.modality_projection.proj.weight": (576, 12288),
}
for layer in range(12):
    at = f"{SIGLIP}encoder.layers.{layer}"
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        SMALL |= affine(f"{at}.self_attn.{part}", 768, 768)
    SMALL |= affine(f"{at}.mlp.fc1", 3072, 768) | affine(f"{at}.mlp.fc2", 768, 3072)


def test_a_small_family_takes_less_of_everything() -> None:
    tensors = {name: Tensor("BF16", size) for name, size in SMALL.items()}
    seen = vision_of(SMOLVLM, tensors, "int8")
    assert [(each.views, each.tokens) for each in seen.squares] == [(1, 67), (5, 333), (17, 1127)]
    assert seen.parameters == pytest.approx(86.4e6, rel=0.01)
    assert seen.embedding_bytes == 49280 * 576 * 2
    assert seen.vision_bytes / 2**20 == pytest.approx(103, rel=0.05)
    text = TextCost(170_000_000, 46_080, 134_500_000, True)
    small = picture_costs(seen, text, 2, MACHINE, PROFILES)
    for cost, large in zip(small, costs("int8"), strict=True):
        assert cost.memory_bytes < large.memory_bytes / 2
        for here, there in zip(cost.devices, large.devices, strict=True):
            assert here.fits
            assert here.seconds[1] < there.seconds[1] / 1.5


def test_a_device_that_lacks_the_memory_is_named() -> None:
    fits = {time.device: time.fits for time in costs("int8")[0].devices}
    assert not fits["Raspberry Pi 5, 4 GB"]
    assert fits["Raspberry Pi 5, 8 GB"]
    assert not any(time.fits for time in costs("fp32", FP32)[0].devices)
