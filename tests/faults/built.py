"""A built folder that faults are planted into, and the table of the faults."""

from __future__ import annotations

# mypy: disable-error-code="import-not-found,no-untyped-def,no-untyped-call,no-any-return"
# (onnx is the toolchain's)
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import onnx
except ImportError:  # pytest reads the names alone
    onnx = None

__all__ = ["FAULTS", "FOR_THE_GATE", "GRAPH", "Built", "Fault", "fault", "gate_only", "onnx"]
GRAPH = "model.onnx"


class Fault(NamedTuple):
    """A fault: the lint's finding, what plants it, and the tiny model that it fits."""

    finding: str
    plant: Callable[[Built], None]
    family: str
    recipe: str


FAULTS: dict[str, Fault] = {}
FOR_THE_GATE: dict[str, Callable[[Built], None]] = {}
"""Faults that are the same in every layer and keep all names: only the output shows them."""


class Built:
    """A built folder, changed in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = onnx.load(folder / GRAPH, load_external_data=False)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def save(self) -> None:
        (self.folder / GRAPH).write_bytes(self.model.SerializeToString())

    def nodes(self, *kinds: str) -> list[Any]:
        return [node for node in self.model.graph.node if node.op_type in kinds]

    def attentions(self) -> list[Any]:
        return self.nodes("GroupQueryAttention")

    def named(self, end: str) -> Any:
        return next(node for node in self.model.graph.node if node.name.endswith(end))

    def array(self, name: str) -> Any:
        """A tensor of the data file; what is written there is in the file."""
        tensor = self.tensors[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        return np.memmap(
            self.folder / where["location"],
            onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type),
            "r+", offset=int(where["offset"]), shape=tuple(tensor.dims),
        )  # fmt: skip

    def parts(self, number: int = 1) -> list[Any]:
        """Values, scales and zero points of a quantised matrix."""
        node = self.nodes("MatMulNBits")[number]
        return [self.array(name) for name in node.input[1:4] if name]

    def set(self, node: Any, name: str, value: float) -> None:
        for attribute in node.attribute:
            if attribute.name == name:
                kind = "i" if attribute.type == onnx.AttributeProto.INT else "f"
                setattr(attribute, kind, value)

    def change(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        path = self.folder / name
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def fault(
    finding: str, family: str = "qwen2", recipe: str = "plain"
) -> Callable[[Callable[[Built], None]], Callable[[Built], None]]:
    def register(plant: Callable[[Built], None]) -> Callable[[Built], None]:
        FAULTS[plant.__name__.replace("_", "-")] = Fault(finding, plant, family, recipe)
        return plant

    return register


def gate_only(plant: Callable[[Built], None]) -> Callable[[Built], None]:
    FOR_THE_GATE[plant.__name__.replace("_", "-")] = plant
    return plant
