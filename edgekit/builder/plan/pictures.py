"""What a picture takes of a model that sees: tokens, memory and time, all estimates. Pure.

The figures behind it were measured once, on two threads of an x86 with AVX2 and without VNNI, with
a tower of the real size and random weights (docs/build.md). Nothing was measured on another device:
there the time follows from what the data sheet says of its cores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edgekit.builder.plan.profiles import DeviceProfile
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.support.pictures import family_of
from edgekit.builder.support.seeing.family import TABLE, Looked, PictureFamily

CROPS = (1, 4, 16)
"""The square pictures that a plan counts, by their crops."""
_INT8_BYTES = 1 + 4 / 32  # a code, and its share of a block's scale
_LAYER = re.compile(r"\.encoder\.layers\.(\d+)\.")
_CLIP_PARAMETERS, _CLIP_PATCHES = 291e6, 577  # of CLIP-L's used layers; their time was measured
_VIEW_CPU_SECONDS = {"fp32": 6.25, "int8": 8.3}
_READ_PER_CPU_SECOND = (30.0, 50.0)  # tokens, by a core with the text part of Phi-3.5
_PHI_PARAMETERS = 3.72e9
_WORKING_BYTES = 350 << 20  # a view's activations and repacked weights
_RUNTIME_BYTES, _PACKED_SHARE = 300 << 20, 0.25  # as `profiles.on_device` has them
_BESIDE_TOKENS = 512  # question and answer
# height and width of the pictures of `inside/gate/drawing.py`; those of one crop are also swapped
_GATE_CROPS = ((1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 1))
_GATE_TEXT = 40  # tokens of question and answer
_REACHED = (0.45, 0.75)
"""Lower and upper share of the cores' peak that float32 matrices reach; 0.65 was measured here."""
_REACHED_INT = (0.7, 2.0)
"""The same for a quantised text part, whose products are of 8 bits."""


class VisionShape(msgspec.Struct, frozen=True):
    """The part of a model that sees.

    Attributes:
        precision: of its matrices.
        vision_bytes, embedding_bytes: size of `vision.onnx.data` and `embedding.onnx.data`.
        parameters: number of the tower's weights that are used.
        longest: context that the model is built for, in tokens; 0 is the text part's own.
        patches: of a view, that the tower reads.
        squares: what the square pictures of `CROPS` take.
        gate: what each of the gate's pictures takes.
    """

    precision: VisionPrecision
    vision_bytes: int
    embedding_bytes: int
    parameters: int
    longest: int
    patches: int
    squares: tuple[Looked, ...]
    gate: tuple[Looked, ...]

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.vision_bytes + self.embedding_bytes


class PictureTime(msgspec.Struct, frozen=True):
    """A picture on a kind of device.

    Attributes:
        device: name of the device profile, or this machine.
        fits: the model fits with such a picture, a question and an answer.
        seconds: least and most estimated time until the answer begins.
    """

    device: str
    fits: bool
    seconds: tuple[float, float]


class PictureCost(msgspec.Struct, frozen=True):
    """A square picture of so many crops.

    Attributes:
        tokens: rows that the text part reads.
        memory_bytes: estimated memory of the model, the picture and 512 tokens beside it.
    """

    crops: int
    tokens: int
    memory_bytes: int
    devices: tuple[PictureTime, ...]


class TextCost(msgspec.Struct, frozen=True):
    """What the time and memory of a picture depend on in the text part.

    Attributes:
        model_bytes: of graph and data.
        kv: bytes of keys and values per token.
        parameters: number of weights that a token is multiplied with.
        quantised: its products are of 8 bits.
    """

    model_bytes: int
    kv: int
    parameters: int
    quantised: bool


def vision_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], precision: VisionPrecision
) -> VisionShape:
    """The shape of the part that sees, by the checkpoint's headers.

    Args:
        config: config.json of a model that takes pictures.
    """
    family = family_of(config)
    assert family is not None
    own = {name: tensor for name, tensor in tensors.items() if not family.text_name(name)}
    numbers = [int(match[1]) for name in own if (match := _LAYER.search(name))]
    last = max(numbers, default=-1) if family.drops_last else -1
    size, parameters = 0.0, 0
    for name, tensor in own.items():
        layer = _LAYER.search(name)
        if _unused(family, name) or (layer and int(layer[1]) == last):  # its states are not taken
            continue
        matrix = name.endswith(".weight") and ("proj" in name or ".mlp." in name)
        matrix = matrix and len(tensor.shape) == 2 and tensor.shape[1] % 32 == 0
        size += tensor.elements * (_INT8_BYTES if matrix and precision == "int8" else 4)
        parameters += tensor.elements if name.startswith(family.tower) else 0
    tables = [tensor for name, tensor in tensors.items() if family.text_name(name) == TABLE]
    table = tables[0].size if tables else 0
    sides = (math.isqrt(crops) for crops in CROPS)
    return VisionShape(
        precision,
        int(size),
        table,
        parameters,
        family.longest_context(config),
        family.patches(config),
        tuple(family.looked(config, side, side) for side in sides),
        tuple(family.looked(config, *crops) for crops in _GATE_CROPS),
    )


def _unused(family: PictureFamily, name: str) -> bool:
    late = family.drops_last and ".post_layernorm." in name
    return late or name.endswith("position_ids")


def picture_costs(
    vision: VisionShape, text: TextCost, cpus: int, memory: int, profiles: Sequence[DeviceProfile]
) -> tuple[PictureCost, ...]:
    """Tokens, memory and time of square pictures, on this machine and on kinds of devices.

    Args:
        cpus, memory: of this machine; memory in bytes.
    """
    base = (text.model_bytes + vision.size) + int(text.model_bytes * _PACKED_SHARE)
    found = []
    for crops, looked in zip(CROPS, vision.squares, strict=True):
        views, tokens = looked.views, looked.tokens
        held = text.kv * (tokens + _BESIDE_TOKENS)
        needed = base + _WORKING_BYTES + _RUNTIME_BYTES + held
        here = _here(vision, text, views, tokens, cpus)
        devices = [PictureTime(f"this machine, {cpus} CPUs", needed <= memory, here)]
        for each in profiles:
            time = _there(vision, text, views, tokens, each.flops)
            devices.append(PictureTime(each.name, needed <= each.usable_bytes, time))
        found.append(PictureCost(crops, tokens, needed, tuple(devices)))
    return tuple(found)


def gate_seconds(vision: VisionShape, text: TextCost, cpus: int) -> tuple[float, float]:
    """Time of the gate's pictures on this machine: at first, and for another model of this source.

    The reference reads its pictures in float32, the built model reads each of them twice and those
    that are swapped once more.
    """
    pictures, swapped = len(_GATE_CROPS), _GATE_CROPS.count((1, 1))
    views, rows = (sum(getattr(each, what) for each in vision.gate) for what in ("views", "tokens"))
    view = _size(vision) / cpus
    parameters = text.parameters / _PHI_PARAMETERS / cpus
    slowest = _READ_PER_CPU_SECOND[0]
    other = swapped * vision.squares[0].tokens
    exact = views * _VIEW_CPU_SECONDS["fp32"] * view
    exact += (rows + other + pictures * _GATE_TEXT) * 2 / slowest * parameters
    built = (views + swapped * vision.squares[0].views) * _VIEW_CPU_SECONDS[vision.precision] * view
    share = 1 if text.quantised else 2
    built += (2 * rows + other + 2 * pictures * _GATE_TEXT) * share / slowest * parameters
    return exact + built, built


def _size(vision: VisionShape) -> float:
    """The work of a view, where that of CLIP-L is 1."""
    return vision.parameters * vision.patches / _CLIP_PARAMETERS / _CLIP_PATCHES


def _here(
    vision: VisionShape, text: TextCost, views: int, tokens: int, cpus: int
) -> tuple[float, float]:
    seeing = views * _VIEW_CPU_SECONDS[vision.precision] * _size(vision) / cpus
    share = text.parameters / _PHI_PARAMETERS * (1 if text.quantised else 2)
    slow, fast = (tokens * share / (rate * cpus) for rate in _READ_PER_CPU_SECOND)
    return (round(seeing + fast, 1), round(seeing + slow, 1))


def _there(
    vision: VisionShape, text: TextCost, views: int, tokens: int, flops: float
) -> tuple[float, float]:
    seeing = 2.0 * vision.parameters * vision.patches * views
    reading = 2.0 * text.parameters * tokens
    reached = _REACHED_INT if text.quantised else _REACHED
    slow, fast = (
        seeing / (flops * seen) + reading / (flops * read)
        for seen, read in zip(_REACHED, reached, strict=True)
    )
    return (round(fast, 1), round(slow, 1))
