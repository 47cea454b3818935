"""Writes GGUF files without weights for tests of their headers."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

Values = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def gguf_header(values: Values, shapes: Shapes) -> bytes:
    """A header whose tensors are F32; it lists the fastest-varying dimension first."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(values))
    for key, value in values.items():
        out += _text(key) + _typed(value)
    offset = 0
    for name, shape in shapes.items():
        out += _text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        out += struct.pack("<IQ", 0, offset)
        offset += -(-4 * math.prod(shape) // 32) * 32
    return out + bytes(-len(out) % 32)


def write_sparse(
    path: Path, values: Values, shapes: Shapes, vectors: dict[str, list[float]] | None = None
) -> Path:
    """A file with holes for weights; `vectors` are written."""
    given = vectors or {}
    shapes = {name: (len(each),) for name, each in given.items()} | shapes
    header = gguf_header(values, shapes)
    with path.open("wb") as file:
        file.write(header)
        for each in given.values():
            data = struct.pack(f"<{len(each)}f", *each)
            file.write(data + bytes(-len(data) % 32))
        size = sum(-(-4 * math.prod(shape) // 32) * 32 for shape in shapes.values())
        file.truncate(len(header) + size)
    return path


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, list):
        kind, first = _scalar(value[0])
        del first
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(_scalar(v)[1] for v in value)
    kind, data = _scalar(value)
    return struct.pack("<I", kind) + data


def _scalar(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return 8, _text(value)
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    return (5, struct.pack("<i", value)) if value < 0 else (4, struct.pack("<I", value))
