"""Reads an ONNX graph of the model builder: matrices, caches, missing connections.

Reads no weights. Names follow onnxruntime-genai 0.18.0 (`builders/base.py`) and the quantiser of
onnxruntime 1.32 (`quantization/matmul_nbits_quantizer.py`).
"""

import re
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

_PASSED_THROUGH = {"Reshape", "Transpose", "Cast", "Identity"}
_QUANTISED_SUFFIX = re.compile(r"(_DQ_Q\d+|_Q\d+|NBits|/DequantizeLinear)$")
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_BITS = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
}
# the number of inputs that a node needs to be loaded
_INPUTS = {"MatMulNBits": 3, "GatherBlockQuantized": 3, "DequantizeLinear": 2, "MatMul": 2}


def dtype_name(number: int) -> str:
    """The onnx name of an element type in lower case: `float`, `float16`, `int8` …"""
    return TensorProto.DataType.Name(number).lower()


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node that are numbers or strings."""
    kinds = {AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.STRING: "s"}
    return {a.name: getattr(a, kinds[a.type]) for a in node.attribute if a.type in kinds}


def method(weight: str) -> str:
    """The quantiser of a weight, by the weight's name.

    `blockwise` is onnxruntime's own quantiser (`default`), `grouped` the one from Neural Compressor
    (`rtn` and `k_quant`), `checkpoint` the source itself.
    """
    if re.search(r"_Q\d+G\d+$", weight):
        return "grouped"
    if weight.endswith(".qweight"):
        return "checkpoint"
    return "blockwise" if re.search(r"_Q\d+$", weight) else "unknown"


class ResolvedGraph:
    """A graph with maps from names to weights and to the nodes that make them."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.proto: GraphProto = model.graph
        self.weights: dict[str, TensorProto] = {t.name: t for t in self.proto.initializer}
        self.maker = {out: node for node in self.proto.node for out in node.output}

    def weight_of(self, name: str) -> TensorProto | None:
        """The initializer behind an input, through nodes that only change its shape or type."""
        while name not in self.weights:
            node = self.maker.get(name)
            if node is None or node.op_type not in _PASSED_THROUGH:
                return None
            name = node.input[0]
        return self.weights[name]

    def matrices(self) -> list[dict[str, Any]]:
        """Every matrix of the model: operands of MatMul, embedding tables, experts."""
        found: list[dict[str, Any]] = []
        for node in self.proto.node:
            entry = None
            if node.op_type == "MatMulNBits" and len(node.input) >= 3:
                entry = self._nbits(node)
            elif node.op_type == "DequantizeLinear" and len(node.input) >= 2:
                entry = self._dequantized(node)
            elif node.op_type in ("MatMul", "Gemm") and len(node.input) >= 2:
                entry = self._float(node, "matmul", node.input[1])
            elif node.op_type == "GatherBlockQuantized" and len(node.input) >= 3:
                entry = self._gather_quantised(node)
            elif node.op_type == "Gather" and "embed" in node.name:
                entry = self._float(node, "embedding", node.input[0])
            elif node.op_type == "QMoE":
                found += self._experts(node)
            if entry:
                found.append(entry)
        return found

    def broken(self) -> list[str]:
        """Missing connections that prevent the runtime from loading the graph, in words."""
        known = {i.name for i in self.proto.input} | set(self.weights) | set(self.maker) | {""}
        found = []
        for node in self.proto.node:
            given = [name for name in node.input if name]
            if len(given) < _INPUTS.get(node.op_type, 0):
                found.append(f"{node.name} has {len(given)} of {_INPUTS[node.op_type]} inputs")
            found += [f"{node.name} takes {i}, made by no node" for i in given if i not in known]
            if node.op_type == "GatherBlockQuantized" and len(given) >= 3:
                scales = self.weight_of(node.input[2])
                if scales is not None and len(scales.dims) != 2:
                    found.append(f"the scales of {node.name} have {len(scales.dims)} dimensions")
        made = set(self.maker) | known
        found += [
            f"no node makes the output {o.name}" for o in self.proto.output if o.name not in made
        ]
        return found

    def caches(self) -> tuple[list[str], int]:
        """Element types of the key and value inputs, and the number of layers with such inputs."""
        keys = re.compile(r"past.*\.(\d+)\.(key|value)$|past_(key|value)_?\w*\.(\d+)$")
        types, layers = set(), set()
        for entry in self.proto.input:
            if match := keys.fullmatch(entry.name):
                types.add(dtype_name(entry.type.tensor_type.elem_type))
                layers.add(match[1] or match[4])
        return sorted(types), len(layers)

    def logits_width(self) -> int | None:
        """Last dimension of the output `logits`."""
        for entry in self.proto.output:
            if entry.name == "logits" and entry.type.tensor_type.shape.dim:
                return entry.type.tensor_type.shape.dim[-1].dim_value or None
        return None

    def _nbits(self, node: NodeProto) -> dict[str, Any] | None:
        have = attributes(node)
        if (weight := self.weights.get(node.input[1])) is None:
            return None
        return self._entry(
            node, "matmul", weight, have.get("bits", 4), have.get("block_size"), 3,
            accuracy_level=have.get("accuracy_level", 0),
            n=have.get("N"), k=have.get("K"), scales=node.input[2],
        )  # fmt: skip

    def _dequantized(self, node: NodeProto) -> dict[str, Any] | None:
        weight = self.weights.get(node.input[0])
        if weight is None or weight.data_type not in _BITS or len(weight.dims) != 2:
            return None
        have = attributes(node)
        transposed = have.get("axis", 1) == 0  # the quantiser's [K, N]; a checkpoint's are [N, K]
        return self._entry(
            node, "matmul", weight, _BITS[weight.data_type], have.get("block_size"), 2,
            qdq=True, n=weight.dims[1 if transposed else 0], k=weight.dims[0 if transposed else 1],
            scales=node.input[1],
        )  # fmt: skip

    def _gather_quantised(self, node: NodeProto) -> dict[str, Any] | None:
        have = attributes(node)
        if (weight := self.weight_of(node.input[0])) is None:
            return None
        block = have.get("block_size", 128)  # the operator's default
        return self._entry(
            node, "embedding", weight, have.get("bits", 4), block, 3,
            shared=weight.name not in node.input,
            n=weight.dims[0], k=None, scales=node.input[2],
        )  # fmt: skip

    def _float(self, node: NodeProto, kind: str, name: str) -> dict[str, Any] | None:
        weight = self.weight_of(name)
        if weight is None or weight.data_type not in _FLOATS or len(weight.dims) < 2:
            return None
        rows = weight.dims[0] if weight.name == name else weight.dims[-1]  # behind a Transpose
        n, k = (rows, None) if kind == "embedding" else (weight.dims[-1], weight.dims[-2])
        return self._entry(
            node, kind, weight, 0, None, 9, dtype=dtype_name(weight.data_type), n=n, k=k,
            shared=kind == "embedding" and weight.name != name,
        )  # fmt: skip

    def _experts(self, node: NodeProto) -> list[dict[str, Any]]:
        have = attributes(node)
        names = list(node.input)
        # operator schema: 2 fc1 weights, 3 fc1 scales, 5 and 6 fc2, 8 and 9 fc3
        places = [(i, i + 1) for i in (2, 5, 8) if i + 1 < len(names) and names[i]]
        return [
            self._entry(
                node, "experts", self.weights[names[w]], have.get("expert_weight_bits", 4),
                have.get("block_size"), 99, n=None, k=None, scales=names[s],
            )
            for w, s in places
            if names[w] in self.weights
        ]  # fmt: skip

    def _entry(
        self,
        node: NodeProto,
        kind: str,
        weight: TensorProto,
        bits: int,
        block_size: int | None,
        zero_points: int,
        **more: Any,
    ) -> dict[str, Any]:
        given = len(node.input) > zero_points and bool(node.input[zero_points])
        return {
            "name": _QUANTISED_SUFFIX.sub("", node.name),
            "kind": kind,
            "weight": weight.name,
            "method": method(weight.name) if bits else "",
            "bits": bits,
            "block_size": block_size,
            "zero_points": given,
            "shape": list(weight.dims),
        } | more


def summary(graph: ResolvedGraph) -> dict[str, Any]:
    """The facts about the graph, without its matrices."""
    types, layers = graph.caches()
    opsets = {entry.domain or "ai.onnx": entry.version for entry in graph.model.opset_import}
    return {
        "producer": graph.model.producer_name,
        "producer_version": graph.model.producer_version,
        "opsets": opsets,
        "nodes": len(graph.proto.node),
        "cache_types": types,
        "cache_layers": layers,
        "logits_width": graph.logits_width(),
        "broken": graph.broken(),
    }


def stored_bytes(tensor: TensorProto) -> int:
    """Size in bytes by a tensor's type and shape; two 4-bit values share a byte."""
    count = 1
    for size in tensor.dims:
        count *= size
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        return (count + 1) // 2
    return count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
