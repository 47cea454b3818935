"""Compares the values of two tensors in weight files, a piece at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

PIECE = 2**20  # elements


class Slice(msgspec.Struct, frozen=True):
    """The bytes `begin` to `end` of a file."""

    file: Path
    begin: int
    end: int


def _bfloat16(data: bytes) -> bytes:
    """The same numbers in float32: BF16 is its upper half."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return bytes(wide)


def _float16(data: bytes) -> bytes:
    count = len(data) // 2
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))


# safetensors type name -> bytes of an element, and how it becomes float32 without loss
_WIDENED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "BF16": (2, _bfloat16),
    "F16": (2, _float16),
    "F32": (4, bytes),
}


def same_values(one: tuple[Slice, str], other: tuple[Slice, str]) -> bool:
    """Whether two tensors of one shape hold the same numbers.

    Args:
        one, other: the bytes and the safetensors type. Two types other than F32, F16 and BF16 are
            equal only where they are one type.
    """
    (here, kind), (there, other_kind) = one, other
    if kind == other_kind:
        wide: Callable[[bytes], bytes] = bytes
        return _same(here, there, (1, 1), (wide, wide))
    if kind not in _WIDENED or other_kind not in _WIDENED:
        return False
    (size, widened), (other_size, other_widened) = _WIDENED[kind], _WIDENED[other_kind]
    return _same(here, there, (size, other_size), (widened, other_widened))


def _same(
    here: Slice,
    there: Slice,
    sizes: tuple[int, int],
    widened: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]],
) -> bool:
    count = (here.end - here.begin) // sizes[0]
    if count != (there.end - there.begin) // sizes[1]:
        return False
    with here.file.open("rb") as first, there.file.open("rb") as second:
        first.seek(here.begin)
        second.seek(there.begin)
        for done in range(0, count, PIECE):
            piece = min(PIECE, count - done)
            if widened[0](first.read(piece * sizes[0])) != widened[1](
                second.read(piece * sizes[1])
            ):
                return False
    return True
