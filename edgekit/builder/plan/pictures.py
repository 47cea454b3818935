"""What a picture takes of a model that sees: tokens, memory and time, all estimates. Pure.

The figures behind it were measured once, on two threads of an x86 with AVX2 and without VNNI, with
a tower of the real size and random weights (docs/build.md). Nothing was measured on another device:
there the time follows from what the data sheet says of its cores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import msgspec

from edgekit.builder.plan.profiles import DeviceProfile
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.spec import VisionPrecision
from edgekit.builder.support.pictures import INNER_TABLE, TABLE, VISION

CROPS = (1, 4, 16)
"""The square pictures that a plan counts, by their crops."""
_CELLS = 12
_PATCHES = 577  # of a view, with the class's
_INT8_BYTES = 1 + 4 / 32  # a code, and its share of a block's scale
_LAYER = re.compile(r"\.encoder\.layers\.(\d+)\.")
_CLIP_PARAMETERS = 291e6  # of CLIP-L's used layers, whose time was measured
_VIEW_CPU_SECONDS = {"fp32": 6.25, "int8": 8.3}
_READ_PER_CPU_SECOND = (30.0, 50.0)  # tokens, by a core with the text part of Phi-3.5
_PHI_PARAMETERS = 3.72e9
_WORKING_BYTES = 350 << 20  # a view's activations and repacked weights
_RUNTIME_BYTES, _PACKED_SHARE = 300 << 20, 0.25  # as `profiles.on_device` has them
_BESIDE_TOKENS = 512  # question and answer
# the pictures of `inside/gate/drawing.py`: six of one crop and two of two, the six also swapped
_GATE_PICTURES, _GATE_SWAPPED, _GATE_VIEWS, _GATE_ROWS = 8, 6, 18, 2804
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
    """

    precision: VisionPrecision
    vision_bytes: int
    embedding_bytes: int
    parameters: int
    longest: int

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
    tensors: Mapping[str, Tensor], precision: VisionPrecision, longest: int
) -> VisionShape:
    """The shape of the part that sees, by the checkpoint's headers.

    Args:
        longest: context that the model is built for, in tokens; 0 is the text part's own.
    """
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(VISION)}
    numbers = [int(match[1]) for name in own if (match := _LAYER.search(name))]
    last = max(numbers, default=-1)
    size, parameters = 0.0, 0
    for name, tensor in own.items():
        layer = _LAYER.search(name)
        unused = name.endswith((".wte.weight", "position_ids")) or ".post_layernorm." in name
        if unused or (layer and int(layer[1]) == last):  # its states are not taken
            continue
        matrix = name.endswith(".weight") and ("_proj" in name or ".mlp." in name)
        matrix = matrix and len(tensor.shape) == 2
        size += tensor.elements * (_INT8_BYTES if matrix and precision == "int8" else 4)
        parameters += tensor.elements if "img_processor" in name else 0
    table = tensors.get(TABLE) or tensors.get(INNER_TABLE)
    return VisionShape(precision, int(size), table.size if table else 0, parameters, longest)


def tokens_of(crops: int) -> int:
    """Rows of a square picture of so many crops."""
    side = math.isqrt(crops)
    return (side * side + 1) * _CELLS**2 + 1 + (side + 1) * _CELLS


def picture_costs(
    vision: VisionShape, text: TextCost, cpus: int, memory: int, profiles: Sequence[DeviceProfile]
) -> tuple[PictureCost, ...]:
    """Tokens, memory and time of square pictures, on this machine and on kinds of devices.

    Args:
        cpus, memory: of this machine; memory in bytes.
    """
    base = (text.model_bytes + vision.size) + int(text.model_bytes * _PACKED_SHARE)
    found = []
    for crops in CROPS:
        tokens = tokens_of(crops)
        held = text.kv * (tokens + _BESIDE_TOKENS)
        needed = base + _WORKING_BYTES + _RUNTIME_BYTES + held
        here = _here(vision, text, crops + 1, tokens, cpus)
        devices = [PictureTime(f"this machine, {cpus} CPUs", needed <= memory, here)]
        for each in profiles:
            time = _there(vision, text, crops + 1, tokens, each.flops)
            devices.append(PictureTime(each.name, needed <= each.usable_bytes, time))
        found.append(PictureCost(crops, tokens, needed, tuple(devices)))
    return tuple(found)


def gate_seconds(vision: VisionShape, text: TextCost, cpus: int) -> tuple[float, float]:
    """Time of the gate's pictures on this machine: at first, and for another model of this source.

    The reference reads its pictures in float32, the built model reads each of them twice and those
    that are swapped once more.
    """
    pictures, swapped, views, rows = _GATE_PICTURES, _GATE_SWAPPED, _GATE_VIEWS, _GATE_ROWS
    view = vision.parameters / _CLIP_PARAMETERS / cpus
    parameters = text.parameters / _PHI_PARAMETERS / cpus
    slowest = _READ_PER_CPU_SECOND[0]
    other = swapped * tokens_of(1)
    exact = views * _VIEW_CPU_SECONDS["fp32"] * view
    exact += (rows + other + pictures * _GATE_TEXT) * 2 / slowest * parameters
    built = (views + 2 * swapped) * _VIEW_CPU_SECONDS[vision.precision] * view
    share = 1 if text.quantised else 2
    built += (2 * rows + other + 2 * pictures * _GATE_TEXT) * share / slowest * parameters
    return exact + built, built


def _here(
    vision: VisionShape, text: TextCost, views: int, tokens: int, cpus: int
) -> tuple[float, float]:
    size = vision.parameters / _CLIP_PARAMETERS
    seeing = views * _VIEW_CPU_SECONDS[vision.precision] * size / cpus
    share = text.parameters / _PHI_PARAMETERS * (1 if text.quantised else 2)
    slow, fast = (tokens * share / (rate * cpus) for rate in _READ_PER_CPU_SECOND)
    return (round(seeing + fast, 1), round(seeing + slow, 1))


def _there(
    vision: VisionShape, text: TextCost, views: int, tokens: int, flops: float
) -> tuple[float, float]:
    seeing = 2.0 * vision.parameters * _PATCHES * views
    reading = 2.0 * text.parameters * tokens
    reached = _REACHED_INT if text.quantised else _REACHED
    slow, fast = (
        seeing / (flops * seen) + reading / (flops * read)
        for seen, read in zip(_REACHED, reached, strict=True)
    )
    return (round(fast, 1), round(slow, 1))
