"""Runs the unmodified model builder in the memory of its largest matrix, not 4 bytes per weight.

The stock builder writes every weight as float32 into one protobuf before it quantises the first
(20 GiB for 3.8 billion weights). Until its block ends, `patched` replaces a few names that the
builder and onnxruntime's quantisers look up:

- large tensors are stubs in the protobuf and stay lazy views of the checkpoint;
- a quantiser that reads a stub gets that one tensor, and its result goes to a spool file;
- a matrix is quantised a few columns at a time;
- query, key and value weights are joined when they are read, not when the graph is made;
- pages of the mapped checkpoint are given back after every tensor.

The builder's own code still decides every node, name and attribute: the files have the same bytes
(tests/system/test_lowmem.py).
"""

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.mapped_pages import Pages
from common.reporting import Reporter, ScriptError
from lowmem import kquant
from lowmem.tensors import OffloadedTensors, refuse_stubs

COLUMNS = 2048  # quantised at a time
SAVING = 0.2  # approximate share of the time for writing the model

STOCK_SEARCH = (
    "k_quant by onnxruntime's own function: the fast one does not make the same bits here"
)


class PatchedModule(types.ModuleType):
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__["_module"] = module
        for name, value in names.items():
            if not hasattr(module, name):
                raise ScriptError("low-memory", f"{module.__name__} has no {name} any more")
            self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class JoinedWeight:
    """Weights that are stacked to one matrix when they are read (side by side if transposed).

    The builder reads it by `torch.as_tensor`, which supports the DLPack protocol.
    """

    def __init__(self, parts: list[torch.Tensor], transposed: bool = False) -> None:
        self._parts = parts
        self._transposed = transposed

    @property
    def shape(self) -> torch.Size:
        """Shape of the joined matrix."""
        rows, columns = sum(len(part) for part in self._parts), self._parts[0].shape[1]
        return torch.Size((columns, rows) if self._transposed else (rows, columns))

    @property
    def T(self) -> "JoinedWeight":  # noqa: N802 (torch's name)
        """The transposed matrix."""
        return JoinedWeight(self._parts, not self._transposed)

    def __dlpack_device__(self) -> Any:
        return self._parts[0].detach().__dlpack_device__()

    def __dlpack__(self, **how: Any) -> Any:
        whole = torch.cat([part.detach() for part in self._parts])
        return (whole.T if self._transposed else whole).__dlpack__(**how)


class ProgressCounter:
    """Reports progress by counting quantised matrices and written tensors."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.matrices = self._done = 0

    def quantising(self) -> None:
        """Report that the next matrix was read."""
        self._done += 1
        total = max(self.matrices, self._done)
        share = (1 - SAVING) * (self._done - 1) / total
        self._reporter.progress(f"quantising matrix {self._done} of {total}", share)

    def writing(self, number: int, total: int) -> None:
        """Report that tensor `number`, counted from 0, is written next."""
        before = 1 - SAVING if self.matrices else 0.0
        share = before + (1 - before) * number / max(total, 1)
        self._reporter.progress(f"writing tensor {number + 1} of {total}", share)


class LowMemory:
    """The replacements for the patched names.

    Attributes:
        outside: the tensors that are not in the protobuf.
        notes: remarks for the user.
        saved: whether the builder wrote its model through the replacements.
    """

    def __init__(self, outside: OffloadedTensors, pages: Pages, progress: ProgressCounter) -> None:
        self.outside = outside
        self.notes: list[str] = []
        self.saved = False
        self._pages = pages
        self._progress = progress
        self._searches: dict[tuple[int, int], kquant.Quantise] = {}

    # in builders.base: before and after the quantisers

    def ir_of_builder(self, ir: Any) -> PatchedModule:
        """onnx_ir as the builder sees it."""

        def to_proto(model: Any) -> Any:
            self._progress.matrices = sum(_has_weights(node) for node in model.graph)
            with self.outside.instead_of(model.graph):
                return ir.to_proto(model)

        def from_proto(proto: Any) -> Any:
            model = ir.from_proto(proto)
            self.outside.put_back(model.graph)
            return model

        def save(model: Any, path: Any, *, callback: Callable[..., None], **how: Any) -> None:
            def before(tensor: Any, info: Any) -> None:
                self._pages.give_back()  # pages of the previous tensor
                self._progress.writing(info.index, info.total)
                callback(tensor, info)

            refuse_stubs(model)
            ir.save(model, path, callback=before, **how)
            self.saved = True

        return PatchedModule(ir, to_proto=to_proto, from_proto=from_proto, save=save)

    def packed_class(self, _: Any) -> Callable[..., Any]:
        """Replaces the builder's class for the joined query, key and value weights."""

        def make(_: Any, q: Any, k: Any, v: Any, **__: Any) -> types.SimpleNamespace:
            return types.SimpleNamespace(weight=JoinedWeight([q.weight, k.weight, v.weight]))

        return make

    # in the quantisers: reading one weight, writing the result

    def _read(self, proto: Any) -> np.ndarray:
        import onnx_ir as ir

        self._pages.give_back()  # pages of the previous matrix
        self._progress.quantising()
        return self.outside.behind(ir.from_proto(proto)).numpy()

    def ir_of_quantiser(self, ir: Any) -> PatchedModule:
        """onnx_ir as `matmul_nbits_quantizer` sees it, which reads and writes weights by it."""

        def from_proto(proto: Any) -> Any:
            array = self._read(proto)
            return types.SimpleNamespace(numpy=lambda: array)

        def serialize_tensor(tensor: Any) -> Any:
            return ir.serde.serialize_tensor(self.outside.spool(tensor))

        serde = PatchedModule(ir.serde, serialize_tensor=serialize_tensor)
        return PatchedModule(ir, from_proto=from_proto, serde=serde)

    def numpy_helper(self, helper: Any) -> PatchedModule:
        """onnx.numpy_helper as `weight_only` sees it."""

        def to_array(proto: Any, base_dir: str = "") -> np.ndarray:
            return self._read(proto)

        return PatchedModule(helper, to_array=to_array)

    def onnx(self, onnx: Any) -> PatchedModule:
        """onnx as `matmul_nbits_quantizer` sees it, which reads an embedding by it."""
        return PatchedModule(onnx, numpy_helper=self.numpy_helper(onnx.numpy_helper))

    def make_node(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """`make_matmul_weight_only_node` with its new weights in the spool."""
        import onnx_ir as ir

        def make(*args: Any, **how: Any) -> Any:
            node, tensors = stock(*args, **how)
            spooled = [self.outside.spool(ir.from_proto(tensor)) for tensor in tensors]
            return node, [ir.to_proto(tensor) for tensor in spooled]

        return make

    # in the quantisers: fewer or smaller temporaries

    def block_quant(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """`qbits_block_quant`, some columns at a time; every block lies within one column."""

        def quantise(quantiser: Any, weight: np.ndarray) -> tuple[np.ndarray, ...]:
            # QDQ packs neighbours of a row into one byte, so the columns stay together
            together = quantiser.config.quant_format.name == "QDQ"
            step = weight.shape[1] if together else COLUMNS
            # contiguous, because the native code reads the bare memory, and lazy tensors are
            # transposed views
            parts = [
                stock(quantiser, np.ascontiguousarray(weight[:, first : first + step]))
                for first in range(0, weight.shape[1], step)
            ]
            return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

        return quantise

    def search(self, stock: kquant.Quantise) -> kquant.Quantise:
        """The k_quant search: the fast one where it makes the same bits as the stock one."""

        def quantise(data: np.ndarray, bits: int = 4, block: int = 32) -> kquant.Quantised:
            if (bits, block) not in self._searches:
                equal = kquant.same_bits(kquant.search, stock, bits, block)
                if not equal and STOCK_SEARCH not in self.notes:
                    self.notes.append(STOCK_SEARCH)
                self._searches[bits, block] = kquant.in_slabs(kquant.search if equal else stock)
            return self._searches[bits, block](data, bits, block)

        return quantise


def _has_weights(node: Any) -> bool:
    return node.op_type == "MatMul" and node.inputs[1].const_value is not None


@contextmanager
def patched(inputs: list[Path], spool: Path, reporter: Reporter) -> Iterator[LowMemory]:
    """Lets the builder run in little memory until the block ends.

    Args:
        inputs: folders of the checkpoint and of an adapter.
        spool: file for all quantised weights; it is made here, and the caller removes it.

    Raises:
        ScriptError: the builder or a quantiser lacks a patched name, or a weight would be missing.
    """
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits
    from onnxruntime.quantization.neural_compressor import weight_only
    from onnxruntime_genai.models.builder import Model

    # not by its full name: the builder puts its folder on sys.path and imports `builders.base`
    base = sys.modules[Model.__module__]
    outside = OffloadedTensors(spool)
    low = LowMemory(outside, Pages(inputs), ProgressCounter(reporter))
    replaced = (
        (base, "ir", low.ir_of_builder),
        (Model, "make_packed_matmul_float_class", low.packed_class),
        (nbits, "ir", low.ir_of_quantiser),
        (nbits, "onnx", low.onnx),
        (nbits.DefaultWeightOnlyQuantizer, "qbits_block_quant", low.block_quant),
        (weight_only, "numpy_helper", low.numpy_helper),
        (weight_only, "make_matmul_weight_only_node", low.make_node),
        (weight_only, "quant_tensor", kquant.in_slabs),
        (weight_only, "quant_tensor_k_quant_cuda", low.search),
    )
    with ExitStack() as stack:
        stack.callback(outside.close)
        for owner, name, make in replaced:
            if not hasattr(owner, name):
                raise ScriptError("low-memory", f"{owner.__name__} has no {name} any more")
            stock = getattr(owner, name)
            setattr(owner, name, make(stock))
            stack.callback(setattr, owner, name, stock)
        yield low
        if not low.saved:
            raise ScriptError(
                "low-memory", "the builder wrote its model without the low-memory patches"
            )
