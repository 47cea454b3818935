"""Keeps large tensors out of a model's protobuf, with stubs in their place."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from common.reporting import ScriptError

SMALL_BYTES = 1 << 20  # tensors up to this size stay in the protobuf
LOCATION = "kept outside by the low-memory build"


class OffloadedTensors:
    """The large tensors of a model: the builder's lazy ones, and finished ones in a spool file.

    A stub is an external tensor with a location that no file has. Its offset is the number of the
    tensor, which survives any number of rewritings of the protobuf.

    The spool is read by plain reads and its checksums are compared, because its content is shipped.
    (As an external tensor it would be copied by copy_file_range(2).)

    Args:
        spool: file for the finished tensors; it must not exist yet.

    Attributes:
        stubs: number of lazy tensors that were replaced by stubs.
        spooled: number of finished tensors in the spool.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._file = spool.open("xb")
        self._tensors: list[ir.TensorProtocol] = []
        self.stubs = self.spooled = 0

    def close(self) -> None:
        """Close the spool for writing; the file stays."""
        self._file.close()

    @contextmanager
    def instead_of(self, graph: ir.Graph) -> Iterator[None]:
        """Puts stubs in place of the graph's large initializers until the block ends."""
        own = {
            value: value.const_value
            for value in graph.initializers.values()
            if value.const_value is not None and value.const_value.nbytes > SMALL_BYTES
        }
        try:
            for value, tensor in own.items():
                value.const_value = self._stub(tensor, str(value.name))
                self.stubs += 1
            yield
        finally:
            for value, tensor in own.items():
                value.const_value = tensor

    def spool(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """Write a finished tensor to the spool and return its stub; return a small one as it is."""
        if tensor.nbytes <= SMALL_BYTES:
            return tensor
        name, dtype, shape = str(tensor.name), tensor.dtype, ir.Shape(tensor.shape)
        array = np.ascontiguousarray(tensor.numpy())
        # as bytes: numpy gives no buffer of a bfloat16 array
        content = array.reshape(-1).view(np.uint8)
        offset, checksum = self._file.tell(), zlib.crc32(content)
        self._file.write(content)
        self._file.flush()
        self.spooled += 1
        kind, count = array.dtype, array.nbytes

        def read() -> ir.Tensor:
            again = np.fromfile(self._spool, np.uint8, count, offset=offset)
            if zlib.crc32(again) != checksum:
                raise ScriptError("low-memory", f"{name} came back from {self._spool} changed")
            return ir.Tensor(again.view(kind).reshape(shape.numpy()), name=name, dtype=dtype)

        return self._stub(ir.LazyTensor(read, dtype, shape, name=name), name)

    def _stub(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        self._tensors.append(tensor)
        return ir.ExternalTensor(
            LOCATION, len(self._tensors) - 1, tensor.nbytes, tensor.dtype,
            shape=ir.Shape(tensor.shape), name=name,
        )  # fmt: skip

    def behind(self, tensor: Any) -> Any:
        """The tensor that a stub stands for; any other tensor is returned as is."""
        return self._tensors[tensor.offset] if is_stub(tensor) else tensor

    def put_back(self, graph: ir.Graph) -> None:
        """Replace all stubs of a graph by their tensors."""
        for value in graph.initializers.values():
            value.const_value = self.behind(value.const_value)


def is_stub(tensor: Any) -> bool:
    """Whether a tensor is a stub."""
    return isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == LOCATION


def refuse_stubs(model: ir.Model) -> None:
    """Refuse a model with stubs: their weights would be missing.

    Raises:
        ScriptError: names the first.
    """
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for name, value in graph.initializers.items():
            if is_stub(value.const_value):
                raise ScriptError("low-memory", f"the weight {name} was left out of the model")
