"""Compares the quantised matrices of a built model with the weights that they were made from.

Reads MatMulNBits nodes (bits, block, packed values, scales, zero points: see the operator's
specification in onnxruntime's ContribOperators.md) and the source's safetensors files. Both are
mapped and read in parts. Needs numpy and onnx, no torch.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOST_ELEMENTS = 2**25  # of one matrix; of a larger one only every n-th row is compared
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")
_ELSEWHERE = re.compile(r"vision|visual|audio|speech|mtp\.")
_JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_SPLIT = {part: whole for whole, parts in _JOINED.items() for part in parts}


@dataclass
class QuantisedMatrix:
    """One quantised matrix of shape (rows, columns), with its mapped parts."""

    name: str
    layer: int | None
    kind: str
    bits: int
    block: int
    shape: tuple[int, int]
    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None

    def rows(self, index: np.ndarray) -> np.ndarray:
        """The rows of these numbers, dequantised to float32."""
        blocks = -(-self.shape[1] // self.block)
        packed = self.values.reshape(self.shape[0], blocks, -1)[index]
        scales = self.scales.reshape(self.shape[0], blocks)[index].astype(np.float32)
        whole = _unpack(packed, self.bits)[..., : self.block].astype(np.float32)
        if self.zeros is None:
            zero: np.ndarray | int = 2 ** (self.bits - 1)
        else:
            zeros = self.zeros.reshape(self.shape[0], -1)[index]
            zero = _unpack(zeros, self.bits)[:, :blocks, None].astype(np.float32)
        out = (whole - zero) * scales[..., None]
        return out.reshape(len(index), -1)[:, : self.shape[1]]


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """The values packed in each byte, low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).reshape(*packed.shape[:-1], -1)


class MappedGraph:
    """The graph of a built folder, with its data mapped."""

    def __init__(self, model: Path) -> None:
        import onnx

        config = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
        self._file = model / config["model"]["decoder"]["filename"]
        graph = onnx.load(self._file, load_external_data=False).graph
        self.nodes = list(graph.node)
        self.stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(self, name: str) -> np.ndarray:
        """The values of an initializer."""
        import onnx

        tensor = self.stored[name]
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return onnx.numpy_helper.to_array(tensor)
        where = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self._file.parent / where["location"],
            onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
            "r",
            offset=int(where.get("offset", 0)),
            shape=tuple(tensor.dims),
        )

    def rotary(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The graph's rotary tables: cosines and sines of each."""
        names = [name for name in self.stored if name.startswith("cos_cache")]
        pairs = [(name, name.replace("cos", "sin", 1)) for name in names]
        return [(self.array(one), self.array(two)) for one, two in pairs if two in self.stored]


def quantised(model: Path) -> list[QuantisedMatrix]:
    """The MatMulNBits matrices of a built folder; other formats are left out."""
    graph = MappedGraph(model)
    found = []
    for node in graph.nodes:
        has = {a.name: a.i for a in node.attribute}
        inputs = [name for name in node.input[1:4] if name]
        if node.op_type != "MatMulNBits" or any(name not in graph.stored for name in inputs):
            continue
        layer = re.search(r"layers\.(\d+)", node.name)
        zeros = graph.array(inputs[2]) if len(inputs) > 2 else None
        if has["bits"] not in (2, 4, 8) or (zeros is not None and zeros.dtype != np.uint8):
            continue
        found.append(
            QuantisedMatrix(
                name=node.name,
                layer=int(layer[1]) if layer else None,
                kind=node.name.strip("/").split("/")[-2],
                bits=has["bits"],
                block=has["block_size"],
                shape=(has["N"], has["K"]),
                values=graph.array(inputs[0]),
                scales=graph.array(inputs[1]),
                zeros=zeros,
            )
        )
    return found


class SourceTensors:
    """The tensors of a folder's safetensors files, mapped."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, tuple[Path, int, str, list[int]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            for name, at in header.items():
                if name != "__metadata__" and not _ELSEWHERE.search(name):
                    start = 8 + size + at["data_offsets"][0]
                    self._where[name] = (path, start, at["dtype"], at["shape"])

    def parts(self, matrix: QuantisedMatrix) -> list[tuple[str, int, int]] | None:
        """The tensors whose stacked rows are this matrix: name, first row, number of rows.

        None where no tensor has a matching name, or the shapes do not fit.
        """
        rows, columns = matrix.shape
        if matrix.layer is None:
            names = [n for n in self._where if n.endswith("lm_head.weight")]
            names = names or [n for n in self._where if n.endswith("embed_tokens.weight")]
            whole = names[:1]
        else:
            whole = self._named(matrix.layer, (matrix.kind,))
            whole = whole or self._named(matrix.layer, _JOINED.get(matrix.kind, ()))
        sizes = [self._where[name][3] for name in whole]
        if whole and all(len(s) == 2 and s[1] == columns for s in sizes):
            if sum(s[0] for s in sizes) == rows:
                return [(name, 0, s[0]) for name, s in zip(whole, sizes, strict=True)]
            return None
        joined = _SPLIT.get(matrix.kind)
        names = self._named(matrix.layer, (joined,)) if joined and matrix.layer is not None else []
        if not names or self._where[names[0]][3][1:] != [columns]:
            return None
        total = self._where[names[0]][3][0]
        parts = len(_JOINED[joined])
        from_end = parts - _JOINED[joined].index(matrix.kind)
        # all parts after the first are equally long
        first = 0 if from_end == parts else total - from_end * rows
        return [(names[0], first, rows)] if first >= 0 else None

    def _named(self, layer: int, kinds: tuple[str, ...]) -> list[str]:
        found = []
        for kind in kinds:
            for name in self._where:
                at = _LAYER.search(name)
                if at and int(at[1]) == layer and name.endswith(f".{kind}.weight"):
                    found.append(name)
        return found if len(found) == len(kinds) else []

    def rows(self, parts: list[tuple[str, int, int]], index: np.ndarray) -> np.ndarray:
        """The rows of these numbers of the stacked parts, as float32."""
        out, before = [], 0
        for name, first, count in parts:
            here = index[(index >= before) & (index < before + count)] - before + first
            out.append(self._widened(name, here))
            before += count
        return np.concatenate(out)

    def _widened(self, name: str, index: np.ndarray) -> np.ndarray:
        path, start, kind, shape = self._where[name]
        if kind == "BF16":  # the upper half of a float32
            mapped = np.memmap(path, "<u2", "r", offset=start, shape=tuple(shape))
            return (mapped[index].astype(np.uint32) << 16).view(np.float32)
        form = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[kind]
        return np.memmap(path, form, "r", offset=start, shape=tuple(shape))[index].astype("f4")


def errors(model: Path, source: Path) -> list[dict[str, object]]:
    """The relative error of every matrix that has a counterpart, and that of its worst row.

    If most matrices of a kind differ greatly from their counterparts, the builder stores that kind
    in another form (rows in another order, a factor folded in), and it is left out.
    """
    tensors = SourceTensors(source)
    found: list[dict[str, object]] = []
    for matrix in quantised(model):
        parts = tensors.parts(matrix)
        if parts is None:
            continue
        every = max(1, matrix.shape[0] * matrix.shape[1] // MOST_ELEMENTS)
        chosen = np.arange(0, matrix.shape[0], every)
        step = max(1, 2**22 // matrix.shape[1])
        off, size = [], []
        for at in range(0, len(chosen), step):
            wanted = tensors.rows(parts, chosen[at : at + step])
            difference = matrix.rows(chosen[at : at + step]) - wanted
            off.append(np.einsum("ij,ij->i", difference, difference))
            size.append(np.einsum("ij,ij->i", wanted, wanted))
        distance, norm = np.concatenate(off), np.concatenate(size)
        # the row of an unused token can be nearly 0: its error is relative to a usual row
        floor = 1e-4 * max(float(np.median(norm)), 1e-30)
        relative = np.sqrt(distance / np.maximum(norm, floor))
        found.append(
            {
                "name": matrix.name,
                "layer": matrix.layer,
                "kind": matrix.kind,
                "bits": matrix.bits,
                "error": float(np.sqrt(distance.sum() / max(norm.sum(), 1e-30))),
                "worst_row": float(relative.max()),
                "usual_row": float(np.median(relative)),
            }
        )
    return [one for one in found if not _stored_otherwise(one, found)]


def _stored_otherwise(one: dict[str, object], found: list[dict[str, object]]) -> bool:
    alike = [other for other in found if other["kind"] == one["kind"]]
    unlike = [other for other in alike if float(other["usual_row"]) > 0.9]
    return 2 * len(unlike) > len(alike)
