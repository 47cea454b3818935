"""A GGUF model in one file or in the parts that llama-gguf-split writes.

The first part holds the metadata; each part has its own tensors, `split.no`, `split.count` and
`split.tensors.count` (llama.cpp, `tools/gguf-split`).
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgekit.builder.support.gguf.header import GgufHeader, GgufTensor, parse_header
from edgekit.errors import UsageError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SPLIT = "split."
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_VERSIONED = 8  # magic and version
_AGAIN = "download all its parts again, into one folder"


class GgufModel(msgspec.Struct, frozen=True):
    """A model of one or several files.

    Attributes:
        header: the metadata, with the tensors of all parts.
        parts: the files in their order, each with its own header.
    """

    header: GgufHeader
    parts: tuple[tuple[Path, GgufHeader], ...]


def find_parts(path: Path) -> tuple[Path, ...]:
    """All files of the model that a GGUF file belongs to, the first part first.

    Raises:
        UsageError: a part is missing.
    """
    match = _PART.fullmatch(path.name)
    if not match or int(match[3]) <= 1:
        return (path,)
    count = int(match[3])
    names = [f"{match[1]}-{number:05}-of-{match[3]}.gguf" for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise UsageError(
            f"{path.name} is one of {count} parts of a model, and others are missing",
            why=f"there is no {missing[0]} beside it ({len(missing)} of {count} are missing)",
            next_step=_AGAIN,
        )
    return tuple(path.parent / name for name in names)


def read_model(path: Path) -> GgufModel:
    """The header of a model, whichever of its parts is named.

    Raises:
        UsageError: a file is no GGUF file or is cut, a part is missing, or the parts do not belong
            together.
    """
    paths = find_parts(path)
    parts = []
    for each in paths:
        with each.open("rb") as file:
            parts.append((each, parse_header(file, each.name)))
    (_, first), *others = parts
    _check_count(first, len(parts))
    tensors, vectors = dict(first.tensors), dict(first.vectors)
    for number, (_, header) in enumerate(others, 1):
        _check_part(first, header, number, tensors)
        tensors |= header.tensors
        vectors |= header.vectors
    expected = first.values.get(_TENSORS, len(tensors))
    if len(parts) > 1 and expected != len(tensors):
        raise _mixed(first.name, f"they have {len(tensors)} of {expected} tensors")
    values = {key: value for key, value in first.values.items() if not key.startswith(_SPLIT)}
    whole = msgspec.structs.replace(first, values=values, tensors=tensors, vectors=vectors)
    return GgufModel(whole, tuple(parts))


def merge_parts(model: GgufModel, out: Path) -> None:
    """Write a model of several parts as one file."""
    (first_path, first), *_ = model.parts
    step = first.alignment
    with out.open("wb") as target:
        with first_path.open("rb") as source:
            start, end = first.pairs
            target.write(source.read(_VERSIONED))
            target.write(struct.pack("<QQ", len(model.header.tensors), len(first.values)))
            source.seek(start)
            target.write(source.read(end - start))
        before = 0  # bytes of data in the parts so far
        for path, header in model.parts:
            for name, tensor in header.tensors.items():
                target.write(_entry(name, tensor, before))
            before += _padded(path.stat().st_size - header.data_start, step)
        for path, header in model.parts:
            target.write(bytes(_padded(target.tell(), step) - target.tell()))
            with path.open("rb") as part:
                part.seek(header.data_start)
                shutil.copyfileobj(part, target, 1 << 20)


def _entry(name: str, tensor: GgufTensor, before: int) -> bytes:
    """An entry of the tensor table, for data that begin `before` bytes later."""
    text = name.encode()
    return (
        struct.pack("<Q", len(text))
        + text
        + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        + struct.pack("<IQ", tensor.kind, before + tensor.offset)
    )


def _padded(size: int, step: int) -> int:
    return -(-size // step) * step


def _check_count(first: GgufHeader, count: int) -> None:
    said = int(first.values.get(_COUNT, 0)) or 1
    if said == count:
        return
    if count == 1:
        raise UsageError(
            f"{first.name} is one of {said} parts of a model",
            why="the other parts are found by their names, NAME-00001-of-00003.gguf",
            next_step="give all parts the names that llama-gguf-split gave them",
        )
    raise _mixed(first.name, f"there are {count} by their names, and {said} by the header")


def _check_part(
    first: GgufHeader, part: GgufHeader, number: int, before: Mapping[str, GgufTensor]
) -> None:
    if part.values.get(_NUMBER) != number or part.values.get(_COUNT) != first.values.get(_COUNT):
        raise _mixed(part.name, f"its header does not say that it is part {number + 1}")
    if part.alignment != first.alignment or part.values.get(_TENSORS) != first.values.get(_TENSORS):
        raise _mixed(part.name, f"it was not written together with {first.name}")
    for key, value in part.values.items():
        if not key.startswith(_SPLIT) and first.values.get(key) != value:
            raise _mixed(part.name, f"its {key} is not that of {first.name}")
    if twice := sorted(before.keys() & part.tensors.keys()):
        raise _mixed(part.name, f"{twice[0]} is in another part, too")


def _mixed(name: str, why: str) -> UsageError:
    return UsageError(f"{name} and the parts beside it are not one model", why, _AGAIN)
