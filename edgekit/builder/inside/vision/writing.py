"""Writes an ONNX graph node by node, each weight to its file as soon as it is read.

So no more than one matrix is in memory: the real-size tower has 1.2 GB of them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VISION_GRAPH, EMBEDDING_GRAPH = "vision.onnx", "embedding.onnx"
MICROSOFT = "com.microsoft"
OPSET, IR_VERSION = 21, 10  # of the locked builder's own graphs
_INLINE = 1024  # a smaller tensor stays in the graph's file


class GraphFile:
    """A graph under construction.

    Args:
        path: the graph's file; its weights go to `NAME.data` beside it.
        data: takes the weights in place of that file.
    """

    def __init__(self, path: Path, data: Any = None) -> None:
        self._path = path
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._data = data or path.with_name(f"{path.name}.data").open("wb")

    def node(
        self, operator: str, *inputs: str, out: str = "", domain: str = "", **more: Any
    ) -> str:
        """Add a node with one output, and return the output's name."""
        name = out or f"{operator}_{len(self._nodes)}"
        made = helper.make_node(operator, list(inputs), [name], f"/{name}", domain=domain, **more)
        self._nodes.append(made)
        return name

    def numbers(self, *values: int) -> str:
        """A constant vector of integers."""
        return self._constant(np.array(values, np.int64))

    def number(self, value: int) -> str:
        """A constant integer."""
        return self._constant(np.array(value, np.int64))

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, values: np.ndarray) -> str:
        """Add a tensor of any type that numpy has."""
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        return self.stream(name, kind, values.shape, [values])

    def stream(
        self, name: str, kind: int, shape: tuple[int, ...], parts: Iterable[np.ndarray]
    ) -> str:
        """Add a tensor part by part.

        Args:
            kind: element type, one of onnx.TensorProto's.
            parts: arrays whose bytes, one after the other, are the tensor.
        """
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        # little-endian, as the format prescribes and as numpy has it on every machine of the lock
        pieces = (np.ascontiguousarray(part).data.cast("B") for part in parts)
        if np.prod(shape) * helper.tensor_dtype_to_np_dtype(kind).itemsize < _INLINE:
            tensor.raw_data = b"".join(pieces)
        else:
            start = self._data.tell()
            for piece in pieces:
                self._data.write(piece)
            tensor.data_location = TensorProto.EXTERNAL
            place = {
                "location": f"{self._path.name}.data",
                "offset": start,
                "length": self._data.tell() - start,
            }
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        self._tensors.append(tensor)
        return name

    def save(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        """Write the graph's file."""
        self._data.close()
        graph = helper.make_graph(self._nodes, self._path.stem, inputs, outputs, self._tensors)
        sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=sets, ir_version=IR_VERSION, producer_name="edgekit"
        )
        self._finish(model.SerializeToString(deterministic=True))

    def _finish(self, graph: bytes) -> None:
        self._path.write_bytes(graph)
