"""The tensors of a folder's safetensors files, read without torch and only where they are needed.

The format: eight bytes with the header's length, the header as JSON, and the tensors' bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FORMS = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
"""Element type of a file -> how numpy reads it; a BF16 is the upper half of a float32."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        path: the file.
        start: its first byte there.
        kind: element type, as in the header.
        shape: as in the header.
    """

    path: Path
    start: int
    kind: str
    shape: tuple[int, ...]


def shards(folder: Path) -> list[Path]:
    """The files that transformers reads: the one file, or those of the index, or all."""
    one = folder / "model.safetensors"
    if one.is_file():
        return [one]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def stored(folder: Path) -> Iterator[tuple[str, Stored]]:
    """Every tensor of a folder with its place."""
    for path in shards(folder):
        yield from in_file(path)


def in_file(path: Path) -> Iterator[tuple[str, Stored]]:
    """Every tensor of a file with its place."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    for name, at in header.items():
        if name != "__metadata__":
            start = 8 + size + at["data_offsets"][0]
            yield name, Stored(path, start, at["dtype"], tuple(at["shape"]))


def as_float32(raw: np.ndarray, kind: str) -> np.ndarray:
    """What numpy read of a file, as float32."""
    if kind == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(raw).astype(np.float32, copy=False)
