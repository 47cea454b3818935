"""The external data of a graph: the layout of the tensors, and statistics of their values.

Weights are read in pieces of at most 16 MiB, therefore a model of any size takes little memory.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from lint.graph import ResolvedGraph, stored_bytes
from onnx import TensorProto

PIECE_BYTES = 16 * 2**20
LISTED = 20  # most entries of each list in the report

# type -> the integer of its width, and the bits that are all ones for NaN and infinities
_EXPONENT = {
    TensorProto.FLOAT: (np.uint32, 0x7F80_0000),
    TensorProto.FLOAT16: (np.uint16, 0x7C00),
    TensorProto.BFLOAT16: (np.uint16, 0x7F80),
}
_RUN = 64  # length of a run of a float matrix whose elements are compared with each other


def place(tensor: TensorProto) -> tuple[str, int, int] | None:
    """File, offset and length in bytes of a tensor's external data; None for one in the graph."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    return (
        entries.get("location", ""),
        int(entries.get("offset", 0)),
        int(length) if length is not None else stored_bytes(tensor),
    )


def outside(folder: Path, location: str) -> bool:
    """Whether a location leads out of the folder, by its path or through a link."""
    path = PurePosixPath(location)
    if not location or path.is_absolute() or ".." in path.parts:
        return True
    return not (folder / location).resolve().is_relative_to(folder.resolve())


def layout(folder: Path, graph: ResolvedGraph) -> dict[str, Any]:
    """The layout of the tensors in their files: outside, past the end, overlaps, holes."""
    by_file: dict[str, list[tuple[int, int, str]]] = {}
    leaving, wrong = [], []
    for tensor in graph.weights.values():
        if (where := place(tensor)) is None:
            continue
        location, offset, length = where
        if outside(folder, location):
            leaving.append({"tensor": tensor.name, "location": location})
            continue
        if length != stored_bytes(tensor):
            wrong.append(tensor.name)
        by_file.setdefault(location, []).append((offset, length, tensor.name))
    return {
        "files": [_file(folder, name, parts) for name, parts in sorted(by_file.items())],
        "outside": leaving[:LISTED],
        "wrong_length": wrong[:LISTED],
        "inline": sum(place(t) is None for t in graph.weights.values()),
    }


def _file(folder: Path, name: str, parts: list[tuple[int, int, str]]) -> dict[str, Any]:
    path = folder / name
    size = path.stat().st_size if path.is_file() else None
    parts.sort()
    end, last = 0, ""
    holes: list[list[int]] = []
    overlaps, cut = [], []
    previous: tuple[int, int] | None = None
    for offset, length, tensor in parts:
        if offset > end:
            holes.append([end, offset - end])
        # two names for the very same bytes are one tensor used twice
        elif offset < end and (offset, length) != previous:
            overlaps.append([last, tensor])
        if size is not None and offset + length > size:
            cut.append(tensor)
        previous = (offset, length)
        if offset + length > end:
            end, last = offset + length, tensor
    if size is not None and size > end:
        holes.append([end, size - end])
    return {
        "name": name,
        "size": size,
        "referenced_end": end,
        "holes": holes[:LISTED],
        "unreferenced_bytes": sum(length for _, length in holes),
        "overlaps": overlaps[:LISTED],
        "cut": cut[:LISTED],
    }


class TensorReader:
    """Reads the tensors of a model in pieces."""

    def __init__(self, folder: Path, graph: ResolvedGraph) -> None:
        self._folder = folder
        self._graph = graph

    def read(self, tensor: TensorProto, whole: int) -> Iterator[np.ndarray]:
        """A tensor's bytes in pieces, each a multiple of `whole` bytes; a cut file gives fewer."""
        where = place(tensor)
        step = max(whole, PIECE_BYTES // whole * whole)
        if where is None:
            data = np.frombuffer(tensor.raw_data, np.uint8)
            for start in range(0, len(data) // whole * whole, step):
                yield data[start : start + step][: (len(data) - start) // whole * whole]
            return
        location, offset, length = where
        path = self._folder / location
        if outside(self._folder, location) or not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(offset)
            while length >= whole:
                piece = np.frombuffer(file.read(min(step, length) // whole * whole), np.uint8)
                piece = piece[: len(piece) // whole * whole]
                if not len(piece):
                    return
                length -= len(piece)
                yield piece

    def odd_floats(self, tensor: TensorProto) -> tuple[int, int, int]:
        """Number of values, of NaN and infinite ones, and of zeros."""
        if tensor.data_type not in _EXPONENT:
            return 0, 0, 0
        kind, exponent = _EXPONENT[tensor.data_type]
        count = bad = zero = 0
        for piece in self.read(tensor, np.dtype(kind).itemsize):
            values = piece.view(kind)
            count += len(values)
            bad += int(((values & kind(exponent)) == exponent).sum())
            zero += int(((values << kind(1)) == 0).sum())  # the sign does not matter
        return count, bad, zero

    def constant_runs(self, tensor: TensorProto, run_bytes: int, bits: int) -> tuple[int, int]:
        """Number of runs, and of runs with equal values throughout.

        A block of a zeroed matrix has one value throughout, whatever its zero point.
        """
        runs = constant = 0
        width = bits // 8 or 1
        for piece in self.read(tensor, run_bytes):
            rows = piece.view(f"u{width}").reshape(-1, run_bytes // width)
            equal = (rows == rows[:, :1]).all(axis=1)
            if bits == 4:
                equal &= (rows[:, 0] >> 4) == (rows[:, 0] & 15)
            runs += len(rows)
            constant += int(equal.sum())
        return runs, constant

    def statistics(self, matrix: dict[str, Any]) -> dict[str, int]:
        """Size of a matrix, and the numbers of its constant blocks, zero scales and bad values."""
        weight = self._graph.weights[matrix["weight"]]
        bytes_of = place(weight)
        found = {"bytes": bytes_of[2] if bytes_of else len(weight.raw_data)}
        if matrix["bits"] == 0:
            count, bad, _ = self.odd_floats(weight)
            item = np.dtype(_EXPONENT[weight.data_type][0]).itemsize
            runs, constant = self.constant_runs(weight, min(_RUN, max(1, count)) * item, item * 8)
            return found | {"blocks": runs, "constant_blocks": constant, "bad_values": bad}
        scales = self._graph.weight_of(matrix["scales"])
        count, bad, zero = self.odd_floats(scales) if scales is not None else (0, 0, 0)
        run = (matrix["block_size"] or 32) * matrix["bits"] // 8
        runs, constant = self.constant_runs(weight, max(1, run), matrix["bits"])
        return found | {
            "blocks": runs,
            "constant_blocks": constant,
            "scales": count,
            "bad_values": bad,
            "zero_scales": zero,
        }

    def not_finite(self, beside: set[str]) -> list[list[Any]]:
        """[name, number of NaN and infinite values] of the tensors that belong to no matrix."""
        found = []
        for name, tensor in self._graph.weights.items():
            if name not in beside and (bad := self.odd_floats(tensor)[1]):
                found.append([name, bad])
        return found[:LISTED]
