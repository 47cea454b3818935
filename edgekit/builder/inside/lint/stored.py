"""The matrices of a built graph as they are stored: steps, scales and zero points, mapped.

Formats: MatMulNBits and GatherBlockQuantized (onnxruntime's ContribOperators.md), DequantizeLinear
before a MatMul, and plain MatMul and Gather.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lint.data import outside, place
from lint.graph import ResolvedGraph, attributes
from onnx import NodeProto, TensorProto, helper, numpy_helper

_LAYER = re.compile(r"/layers\.(\d+)/")
_SUFFIX = re.compile(r"/(MatMul|Gather|GatherBlockQuantized)(_DQ|_matmul)?(_Q\d+)?(NBits)?$")
_PACKED = {TensorProto.INT4, TensorProto.UINT4}
_CENTRE = {TensorProto.INT4: 0, TensorProto.INT8: 0}


@dataclass(frozen=True)
class Part:
    """Some rows of a matrix; of a float matrix only `values`.

    Attributes:
        values: quantised steps, or the weights themselves, of shape (rows, columns).
        scales, zeros: one for each block, of shape (rows, blocks).
        lowest, highest: the limits of a step.
    """

    values: np.ndarray
    scales: np.ndarray | None = None
    zeros: np.ndarray | None = None
    lowest: int = 0
    highest: int = 0


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix of shape (outputs, inputs) for a multiplication, or (tokens, width).

    Attributes:
        name, layer, kind: `/model/layers.3/attn/o_proj`, 3, `o_proj`.
        bits, block: of a quantised one; 0 bits otherwise.
        arrays: weights, scales and zero points, the last two where there are any.
        transposed: the arrays have the inputs first.
        packed: several steps share a byte.
        lowest: of the steps; negative where they have a sign.
        element: type of the scales, or of the weights.
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, int]
    bits: int
    block: int
    arrays: tuple[np.ndarray, ...]
    transposed: bool = False
    packed: bool = True
    lowest: int = 0
    element: str = "float32"

    def parts(self, rows: int) -> Iterator[tuple[slice, Part]]:
        """The matrix in pieces of at most `rows` rows."""
        for first in range(0, self.shape[0], rows):
            chosen = slice(first, min(first + rows, self.shape[0]))
            yield chosen, self._part(chosen)

    def _part(self, rows: slice) -> Part:
        values = self.arrays[0][:, rows].T if self.transposed else self.arrays[0][rows]
        if not self.bits:
            return Part(values)
        highest = self.lowest + 2**self.bits - 1
        count = rows.stop - rows.start
        blocks = -(-self.shape[1] // self.block)
        if self.transposed:
            scales, zeros = self.arrays[1][:, rows].T, None
            if len(self.arrays) > 2:
                zeros = self.arrays[2][:, rows].T
        else:
            bits = self.bits if self.packed else 8
            values = unpack(values.reshape(count, -1), bits)[:, : blocks * self.block]
            scales = self.arrays[1].reshape(self.shape[0], blocks)[rows]
            zeros = None
            if len(self.arrays) > 2:
                packed = self.arrays[2].reshape(self.shape[0], -1)[rows]
                zeros = unpack(packed, bits)[:, :blocks]
        if zeros is None:
            centre = 0 if self.lowest < 0 else 2 ** (self.bits - 1)
            zeros = np.full(scales.shape, centre, np.int16)
        return Part(values, scales.astype(np.float32), zeros, self.lowest, highest)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The values packed in each byte, low bits first."""
    if bits == 8:
        return packed
    out = np.empty((*packed.shape, 8 // bits), np.uint8)
    for number, shift in enumerate(range(0, 8, bits)):
        np.bitwise_and(packed >> shift, 2**bits - 1, out=out[..., number])
    return out.reshape(*packed.shape[:-1], -1)


class Store:
    """Maps the tensors of a built folder's graph."""

    def __init__(self, folder: Path, graph: ResolvedGraph) -> None:
        self._folder = folder
        self.graph = graph

    def array(self, tensor: TensorProto) -> np.ndarray:
        """The values of a tensor; two 4-bit values of an INT4 tensor are taken apart.

        Raises:
            ValueError: the tensor's place is not in the folder.
        """
        where = place(tensor)
        if where is None:
            return np.asarray(numpy_helper.to_array(tensor))
        location, offset, length = where
        if outside(self._folder, location):
            raise ValueError(f"{tensor.name} lies outside the folder")
        path, shape = self._folder / location, tuple(tensor.dims)
        if tensor.data_type in _PACKED:
            packed = np.memmap(path, np.uint8, "r", offset=offset, shape=(length,))
            values = unpack(packed, 4)[: int(np.prod(shape))].reshape(shape)
            if tensor.data_type == TensorProto.INT4:
                return ((values.astype(np.int8) ^ 8) - 8).astype(np.int8)
            return values
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.memmap(path, kind, "r", offset=offset, shape=shape)

    def matrices(self) -> list[StoredMatrix]:
        """Every matrix that a MatMul multiplies with, and every table that is looked up.

        A table that shares the head's bytes is left out.
        """
        made = {
            "MatMulNBits": self._nbits,
            "GatherBlockQuantized": self._table,
            "MatMul": self._float,
            "Gather": self._float,
        }
        found = (made[node.op_type](node) for node in self.graph.proto.node if node.op_type in made)
        return [matrix for matrix in found if matrix is not None]

    def experts(self) -> list[str]:
        """Names of the nodes whose experts' weights are in a form of their own."""
        return [node.name for node in self.graph.proto.node if node.op_type in ("MoE", "QMoE")]

    def _entry(self, node: NodeProto, **how: object) -> StoredMatrix:
        stem = _SUFFIX.sub("", node.name)
        layer = _LAYER.search(node.name)
        kind = stem.rsplit("/", 1)[-1]
        return StoredMatrix(
            name=stem,
            layer=int(layer[1]) if layer else None,
            kind=f"linear_{kind}" if "/linear_attn/" in stem else kind,
            **how,
        )

    def _tensors(self, names: list[str]) -> tuple[np.ndarray, ...]:
        return tuple(self.array(self.graph.weights[name]) for name in names if name)

    def _nbits(self, node: NodeProto) -> StoredMatrix | None:
        has, names = attributes(node), [name for name in node.input[1:4] if name]
        bits = has.get("bits", 4)
        if any(name not in self.graph.weights for name in names) or bits not in (2, 4, 8):
            return None
        if len(names) > 2 and self.graph.weights[names[2]].data_type != TensorProto.UINT8:
            return None  # zero points that are floats, as some checkpoints have
        return self._entry(
            node, shape=(has["N"], has["K"]), bits=bits, block=has["block_size"],
            arrays=self._tensors(names), element=self._type(names[1]),
        )  # fmt: skip

    def _table(self, node: NodeProto) -> StoredMatrix | None:
        has = attributes(node)
        names = [node.input[0], *node.input[2:4]]
        if any(name and name not in self.graph.weights for name in names):
            return None  # the head's bytes
        weight, scales = (self.graph.weights[name] for name in names[:2])
        bits, block = has.get("bits", 4), has.get("block_size", 128)
        if weight.data_type not in (TensorProto.UINT8, *_PACKED):
            return None
        width = min(scales.dims[-1] * block, self._width(weight, bits))
        return self._entry(
            node, shape=(weight.dims[0], width), bits=bits, block=block,
            arrays=self._tensors(names), element=self._type(names[1]),
            packed=weight.data_type not in _PACKED,
            lowest=-8 if weight.data_type == TensorProto.INT4 else 0,
        )  # fmt: skip

    def _width(self, weight: TensorProto, bits: int) -> int:
        size = int(np.prod(weight.dims[1:]))
        return size * 8 // bits if weight.data_type == TensorProto.UINT8 else size

    def _float(self, node: NodeProto) -> StoredMatrix | None:
        place_of = 1 if node.op_type == "MatMul" else 0
        if node.op_type == "Gather" and "embed" not in node.name:
            return None
        name = node.input[place_of]
        maker = self.graph.maker.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            return self._qdq(node, maker)
        weight = self.graph.weights.get(name)
        if weight is None or len(weight.dims) != 2:
            return None
        turned = node.op_type == "MatMul"
        rows, columns = (weight.dims[::-1]) if turned else weight.dims
        return self._entry(
            node, shape=(rows, columns), bits=0, block=0, arrays=self._tensors([name]),
            transposed=turned, element=self._type(name),
        )  # fmt: skip

    def _qdq(self, node: NodeProto, maker: NodeProto) -> StoredMatrix | None:
        has, names = attributes(maker), list(maker.input)
        weight = self.graph.weights.get(names[0])
        if weight is None or has.get("axis", 1) != 0 or len(weight.dims) != 2:
            return None
        bits = 4 if weight.data_type in _PACKED else 8
        signed = weight.data_type in _CENTRE
        return self._entry(
            node, shape=(weight.dims[1], weight.dims[0]), bits=bits, block=has["block_size"],
            arrays=self._tensors(names), transposed=True, packed=False,
            lowest=-(2 ** (bits - 1)) * signed,
            element=self._type(names[1]),
        )  # fmt: skip

    def _type(self, name: str) -> str:
        return TensorProto.DataType.Name(self.graph.weights[name].data_type).lower()
