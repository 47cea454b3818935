"""Reads the header of a safetensors file, and checks that the file is whole.

The file is the header's length (8 bytes, little-endian), the header (JSON), the data;
`data_offsets` count from the start of the data, and the data has no holes:
https://huggingface.co/docs/safetensors/en/index#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.builder.source.values import Slice
from edgekit.core.reading import UNREADABLE
from edgekit.errors import UsageError

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library refuses longer headers."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LENGTH_BYTES = 8
_TYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_METADATA = "__metadata__"
_AGAIN = "download it again"


class _Tensor(msgspec.Struct):
    """One entry of a header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class StoredTensor(msgspec.Struct, frozen=True):
    """A tensor of a checkpoint.

    Attributes:
        dtype: safetensors type name.
        place: its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    place: Slice


def refuse_pointer(path: Path) -> None:
    """Refuse a file that Git LFS left as a pointer.

    Raises:
        UsageError: names the file.
    """
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise UsageError(
            f"{path.name} is a Git LFS pointer, not the file itself",
            next_step="run git lfs pull where it was cloned",
        )


def read_weight_file(path: Path) -> dict[str, StoredTensor]:
    """A safetensors file's tensors.

    Raises:
        UsageError: its size contradicts its header, or the header cannot be read.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < _LENGTH_BYTES:
            raise _half(path, f"it has {size} bytes")
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise UsageError(
                f"{path.name} is not a safetensors file",
                why=f"its header would take {length} bytes",
                next_step=_AGAIN,
            )
        header = file.read(length)
    start = _LENGTH_BYTES + length
    if size < start:
        raise _half(path, f"it has {size} bytes and ends before its weights begin")
    entries = _entries(path.name, header)
    expected = start + max((t.data_offsets[1] for t in entries.values()), default=0)
    if size < expected:
        raise _half(path, f"it has {size} of {expected} bytes")
    if size > expected:
        raise UsageError(
            f"{path.name} is longer than its header says",
            why=f"it has {size} bytes instead of {expected}",
            next_step=_AGAIN,
        )
    _refuse_holes(path.name, entries)
    return {
        name: StoredTensor(
            each.dtype,
            tuple(each.shape),
            Slice(path, start + each.data_offsets[0], start + each.data_offsets[1]),
        )
        for name, each in entries.items()
    }


def _refuse_holes(file: str, entries: Mapping[str, _Tensor]) -> None:
    end = 0
    for name, each in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, after = each.data_offsets
        taken = math.prod(each.shape) * _TYPE_BYTES.get(each.dtype, 0)
        if begin != end or after < begin or (taken and taken != after - begin):
            raise UsageError(
                f"the header of {file} is wrong about {name}",
                why=f"it lies from {begin} to {after}, the tensor before ends at {end}"
                + (f", and its shape takes {taken} bytes" if taken else ""),
                next_step=_AGAIN,
            )
        end = after


def _half(path: Path, why: str) -> UsageError:
    return UsageError(f"{path.name} is only half there", why=why, next_step=_AGAIN)


def _entries(name: str, header: bytes) -> dict[str, _Tensor]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return {
            tensor: msgspec.json.decode(value, type=_Tensor)
            for tensor, value in raw.items()
            if tensor != _METADATA
        }
    except UNREADABLE as error:
        raise UsageError(
            f"{name} is not a safetensors file",
            why=f"its header cannot be read: {error}",
            next_step=_AGAIN,
        ) from error
