"""Reads the header of a GGUF file. Pure.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import struct
from typing import Any, BinaryIO

import msgspec

from edgekit.errors import UsageError

ROTARY = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that hold no weights but the scaling of the rotary frequencies."""

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_BYTES = 1 << 28  # of one value; a vocabulary takes a few MB
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_FLOAT, _STRING, _ARRAY = 6, 8, 9
_LONGEST_ARRAY = 4096  # longer ones belong to the vocabulary, which the toolchain reads
_ALIGNMENT_KEY, _ALIGNMENT = "general.alignment", 32
_F32 = 0
# ggml type -> values and bytes of a block (`GGML_QUANT_SIZES` of the package gguf 0.19)
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8),
    28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
    41: (128, 18),
}  # fmt: skip


class LongArray(msgspec.Struct, frozen=True):
    """Stands for an array whose elements were not kept."""

    length: int


class GgufTensor(msgspec.Struct, frozen=True):
    """One entry of the tensor table.

    Attributes:
        shape: slowest-varying dimension first, as in safetensors.
        kind: ggml type.
        offset: in bytes, from the start of the data.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        """Size in bytes as stored.

        Raises:
            KeyError: there is no such ggml type.
        """
        values, size = _BLOCKS[self.kind]
        return math.prod(self.shape) // values * size


class GgufHeader(msgspec.Struct, frozen=True):
    """All that a GGUF file says about its model, except weights and vocabulary.

    Attributes:
        name: file name.
        values: metadata. An array is a tuple, or a `LongArray`.
        tensors: tensor table.
        vectors: the values of the tensors in `ROTARY`.
        pairs: where the metadata lie in the file, start and end in bytes.
        data_start: where the tensors' data begin, in bytes.
    """

    name: str
    values: dict[str, Any]
    tensors: dict[str, GgufTensor]
    vectors: dict[str, tuple[float, ...]]
    pairs: tuple[int, int]
    data_start: int

    @property
    def alignment(self) -> int:
        """Alignment of the data in bytes."""
        return int(self.values.get(_ALIGNMENT_KEY, _ALIGNMENT))


def parse_header(file: BinaryIO, name: str) -> GgufHeader:
    """Read the header and the few tensors that belong to the configuration.

    Args:
        file: positioned at its start.
        name: file name for error messages.

    Raises:
        UsageError: it is not a GGUF file, is cut, or names a tensor twice.
    """
    try:
        header = _parse(file, name)
        _refuse_cut(file, header)
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise UsageError(
            f"the header of {name} cannot be read", why=str(error), next_step="download it again"
        ) from error
    vectors = {key: _vector(file, header, key) for key in ROTARY if key in header.tensors}
    return msgspec.structs.replace(header, vectors=vectors)


def _parse(file: BinaryIO, name: str) -> GgufHeader:
    if file.read(4) != _MAGIC:
        raise UsageError(
            f"{name} is not a GGUF file", next_step="give a whole .gguf file; download it again"
        )
    version, count, pairs = struct.unpack("<IQQ", file.read(20))
    if version not in _VERSIONS:
        raise UsageError(
            f"{name} cannot be read",
            f"it is GGUF of version {version}, not 2 or 3",
            next_step="convert the model again with a current llama.cpp",
        )
    start = file.tell()
    values: dict[str, Any] = {}
    for _ in range(pairs):
        key = _string(file)
        _refuse_twice(name, key, values)
        values[key] = _value(file, _number(file, "<I"))
    end = file.tell()
    tensors: dict[str, GgufTensor] = {}
    for _ in range(count):
        key = _string(file)
        _refuse_twice(name, key, tensors)
        dimensions = [_number(file, "<Q") for _ in range(_number(file, "<I"))]
        # GGUF lists the fastest-varying dimension first
        shape = tuple(reversed(dimensions))
        tensors[key] = GgufTensor(shape, *struct.unpack("<IQ", _bytes(file, 12)))
    header = GgufHeader(name, values, tensors, {}, (start, end), 0)
    step = values.get(_ALIGNMENT_KEY, _ALIGNMENT)
    if not isinstance(step, int) or not 0 < step <= _MAX_BYTES:
        raise struct.error(f"an alignment of {step} bytes")
    return msgspec.structs.replace(header, data_start=-(-file.tell() // step) * step)


def _refuse_twice(name: str, key: str, seen: dict[str, Any]) -> None:
    if key in seen:
        raise UsageError(
            f"{name} says {key} twice", why="only one can be right", next_step="download it again"
        )


def _refuse_cut(file: BinaryIO, header: GgufHeader) -> None:
    size = file.seek(0, 2)
    for name, tensor in header.tensors.items():
        if tensor.kind not in _BLOCKS:
            raise UsageError(
                f"{header.name} has weights of an unknown type",
                why=f"{name} has ggml type {tensor.kind}",
                next_step="take the model in another quantisation, or its Hugging Face folder",
            )
        if header.data_start + tensor.offset + tensor.size > size:
            raise UsageError(
                f"{header.name} is only half there",
                why=f"it has {size} bytes and ends before {name} does",
                next_step="download it again",
            )


def _vector(file: BinaryIO, header: GgufHeader, key: str) -> tuple[float, ...]:
    tensor = header.tensors[key]
    if tensor.kind != _F32 or len(tensor.shape) != 1:
        raise UsageError(
            f"{header.name} has a {key} that is no vector of F32",
            next_step="convert the model again",
        )
    file.seek(header.data_start + tensor.offset)
    values = struct.unpack(f"<{tensor.shape[0]}f", file.read(tensor.size))
    return tuple(_shortest(value) for value in values)


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    return _bytes(file, _number(file, "<Q")).decode("utf-8", "replace")


def _bytes(file: BinaryIO, length: int) -> bytes:
    if length > _MAX_BYTES or len(data := file.read(length)) < length:
        raise struct.error("the file ends too early")
    return data


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _scalar(_number(file, _form(kind)), kind)
    inner, length = struct.unpack("<IQ", _bytes(file, 12))
    keep = length <= _LONGEST_ARRAY
    if inner == _STRING:
        if keep:
            return tuple(_string(file) for _ in range(length))
        for _ in range(length):
            _bytes(file, _number(file, "<Q"))
        return LongArray(length)
    form = _form(inner)
    data = _bytes(file, length * struct.calcsize(form))
    if not keep:
        return LongArray(length)
    return tuple(_scalar(value, inner) for (value,) in struct.iter_unpack(form, data))


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise struct.error(f"there is no value type {kind}")
    return _SCALARS[kind]


def _scalar(value: Any, kind: int) -> Any:
    return _shortest(value) if kind == _FLOAT else value


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: config.json says 1e-05, not 9.99999974e-06."""
    if not math.isfinite(value):
        return value
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((each for each in candidates if _packed(each) == _packed(value)), value)


def _packed(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # rounded beyond the largest float32
        return b""
