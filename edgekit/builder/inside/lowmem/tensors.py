"""Tensors that are kept out of a model's protobuf, and the stubs that stand for them in it."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from common.reporting import ScriptError

SMALL_BYTES = 1 << 20  # up to that many a tensor stays where it is
LOCATION = "kept outside by the low-memory build"


class OffloadedTensors:
    """Large tensors: lazy ones as the builder made them, and finished ones in a spool file.

    A stub is an external tensor with a location that no file has; its offset is a number that
    finds the tensor again, through any number of rewritings of the protobuf.

    The spool is read by plain reads and its checksums are compared: what comes out of this file is
    what is shipped. (As an external tensor it would be copied by copy_file_range(2).)

    Args:
        spool: file for the finished ones; it is made here.

    Attributes:
        stubs: how many lazy tensors were kept outside.
        spooled: how many finished ones.
    """

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._file = spool.open("xb")
        self._tensors: list[ir.TensorProtocol] = []
        self.stubs = self.spooled = 0

    def close(self) -> None:
        """Ends the writing; the file stays."""
        self._file.close()

    @contextmanager
    def instead_of(self, graph: ir.Graph) -> Iterator[None]:
        """For the length of a block, stubs in place of the graph's large initializers."""
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
        """A stub for a finished tensor, whose bytes go to the file; a small one as it is."""
        if tensor.nbytes <= SMALL_BYTES:
            return tensor
        name, dtype, shape = str(tensor.name), tensor.dtype, ir.Shape(tensor.shape)
        array = np.ascontiguousarray(tensor.numpy())
        offset, checksum = self._file.tell(), zlib.crc32(array.data.cast("B"))
        self._file.write(array.data.cast("B"))
        self._file.flush()
        self.spooled += 1
        kind, count = array.dtype, array.size

        def read() -> ir.Tensor:
            again = np.fromfile(self._spool, kind, count, offset=offset)
            if zlib.crc32(again.data.cast("B")) != checksum:
                raise ScriptError("low-memory", f"{name} came back from {self._spool} changed")
            return ir.Tensor(again.reshape(shape.numpy()), name=name, dtype=dtype)

        return self._stub(ir.LazyTensor(read, dtype, shape, name=name), name)

    def _stub(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        self._tensors.append(tensor)
        return ir.ExternalTensor(
            LOCATION, len(self._tensors) - 1, tensor.nbytes, tensor.dtype,
            shape=ir.Shape(tensor.shape), name=name,
        )  # fmt: skip

    def behind(self, tensor: Any) -> Any:
        """The tensor that a stub stands for; anything else as it is."""
        return self._tensors[tensor.offset] if is_stub(tensor) else tensor

    def put_back(self, graph: ir.Graph) -> None:
        """The real tensors in place of all stubs."""
        for value in graph.initializers.values():
            value.const_value = self.behind(value.const_value)


def is_stub(tensor: Any) -> bool:
    """Whether it stands for another tensor."""
    return isinstance(tensor, ir.ExternalTensor) and str(tensor.location) == LOCATION


def refuse_stubs(model: ir.Model) -> None:
    """Raises: ScriptError where one is left: better no model than one without a weight."""
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for name, value in graph.initializers.items():
            if is_stub(value.const_value):
                raise ScriptError("low-memory", f"the weight {name} was left out of the model")
