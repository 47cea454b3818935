"""Compares the attention, the norms' epsilons and the rotary tables of a graph with the source."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from lint.difference import difference
from lint.graph import ResolvedGraph, attributes
from lint.original import Attention, Original
from lint.stored import Store
from lint.wiring import layer_of
from onnx import NodeProto, numpy_helper

_OPERATORS = {"GroupQueryAttention", "MultiHeadAttention", "PagedAttention", "Attention"}
_TABLES = {
    "GroupQueryAttention": (7, 8),
    "RotaryEmbedding": (2, 3),
    "MRotaryEmbedding": (2, 3),
}
_ROTATIONS = {"RotaryEmbedding", "MRotaryEmbedding"}
_EPSILONS = ("epsilon", "qk_norm_epsilon")
_RELATIVE = 1e-5  # of a setting that is stored as float32
_ROUNDING = {"float32": 2e-4, "float16": 1.5e-3, "bfloat16": 1e-2}
_BY_POSITION = 2.0**-21
"""Error of an angle for each position: float32 rounds a frequency, and the position multiplies that
error. Libraries compute the frequency in another order."""


def attention(graph: ResolvedGraph, original: Original) -> list[dict[str, str]]:
    """Every setting of an attention node that differs, and every layer without such a node."""
    wanted = original.attention()
    rotated = {layer_of(node.name) for node in graph.proto.node if node.op_type in _ROTATIONS}
    found, seen = [], set()
    for node in graph.proto.node:
        layer = layer_of(node.name)
        if node.op_type in _OPERATORS and layer in wanted:
            seen.add(layer)
            found += _settings(node, wanted[layer], original.context, layer in rotated)
        elif node.op_type in _ROTATIONS and layer in wanted:
            got = bool(attributes(node).get("interleaved"))
            if got != wanted[layer].interleaved:
                where = f"{node.name} interleaved"
                found.append(
                    difference("attention-settings", where, wanted[layer].interleaved, got)
                )
    layers = {layer_of(n.name) for n in graph.proto.node if "/final_norm" not in n.name}
    for layer in sorted(wanted.keys() & layers - seen):
        found.append(difference("attention-settings", f"layer {layer}", "an attention", "none"))
    return found


def _settings(
    node: NodeProto, wanted: Attention, context: int | None, rotated: bool
) -> Iterator[dict[str, str]]:
    has = attributes(node)
    grouped = node.op_type in ("GroupQueryAttention", "PagedAttention")
    expected: dict[str, float] = {"num_heads": wanted.heads}
    if has.get("scale"):  # 0 and none are 1 / sqrt(head size), and so is nearly every model's
        expected["scale"] = wanted.scale
    if grouped:
        expected |= {
            "kv_num_heads": wanted.kv_heads,
            "local_window_size": wanted.window,
            "softcap": wanted.softcap,
        }
        if not rotated:
            expected["do_rotary"] = int(wanted.rope)
        if has.get("do_rotary"):
            expected["rotary_interleaved"] = int(wanted.interleaved)
    for name, value in expected.items():
        got = has.get(name, -1 if name == "local_window_size" else 0)
        if name == "local_window_size" and context and got >= context:
            got = -1  # it never slides
        if abs(got - value) > _RELATIVE * abs(value):
            yield difference("attention-settings", f"{node.name} {name}", value, got)


def norms(graph: ResolvedGraph, original: Original) -> Iterator[dict[str, str]]:
    """Every epsilon that no norm of the same layer has."""
    known = original.epsilons()
    everywhere = set().union(*known.values()) if known else set()
    for node in graph.proto.node:
        has = attributes(node)
        layer = layer_of(node.name)
        wanted = known.get(layer) or everywhere
        for name in _EPSILONS:
            got = has.get(name)
            if not wanted or got is None or "linear_attn" in node.name:
                continue
            if all(abs(got - one) > _RELATIVE * one for one in wanted):
                expected = " or ".join(f"{one:.3g}" for one in sorted(wanted))
                yield difference("norm-epsilon", f"{node.name} {name}", expected, got)


class RotaryTables:
    """The rotary tables of a graph, and what they have to be."""

    def __init__(self, store: Store, original: Original) -> None:
        self._store = store
        self._original = original
        self._wanted: dict[tuple[str | None, int, bool], tuple[np.ndarray, np.ndarray]] = {}
        self._seen: dict[tuple[str, str | None, int], list[dict[str, str]]] = {}
        self.rows = 0

    def differences(self) -> list[dict[str, str]]:
        """Every table in which a row differs, for every layer that reads it.

        Raises:
            ValueError: the source has no table of the common form.
        """
        kinds = {n: one.kind for n, one in self._original.attention().items() if one.rope}
        found = []
        for node in self._store.graph.proto.node:
            layer = layer_of(node.name)
            if node.op_type not in _TABLES or layer not in kinds:
                continue
            for which, place in enumerate(_TABLES[node.op_type]):
                name = node.input[place] if len(node.input) > place else ""
                if name:
                    key = (name, kinds[layer], which)
                    if key not in self._seen:
                        self._seen[key] = list(self._of(name, kinds[layer], which))
                        found += self._seen[key]
                elif attributes(node).get("do_rotary", 1):
                    found.append(difference("rotary-tables", node.name, "a rotary table", "none"))
        return found

    def _of(self, name: str, kind: str | None, which: int) -> Iterator[dict[str, str]]:
        tables = self._tables(name)
        if not tables:
            yield difference("rotary-tables", name, "a table of the graph", "none")
        context = self._original.context
        if context and tables and max(len(table) for _, table in tables) < context:
            rows = max(len(table) for _, table in tables)
            yield difference("rotary-tables", name, f"{context} rows", f"{rows} rows")
        for label, table in tables:
            long = len(tables) == 1 or len(table) > min(len(t) for _, t in tables)
            key = (kind, len(table), long)
            if key not in self._wanted:
                self._wanted[key] = self._original.rotary(*key)
            wanted = self._wanted[key][which]
            if wanted.shape[1] > table.shape[1]:
                wanted = wanted[:, : table.shape[1]]
            if wanted.shape != table.shape:
                yield difference("rotary-tables", label, str(wanted.shape), str(table.shape))
                continue
            self.rows += len(table)
            slack = _ROUNDING.get(table.dtype.name, 2e-4) * max(1.0, float(np.abs(wanted).max()))
            bound = slack + _BY_POSITION * np.arange(len(table))[:, None]
            off = ~(np.abs(table.astype(np.float32) - wanted) <= bound)
            if off.any():
                row, column = (int(i) for i in np.argwhere(off)[0])
                rows = int(off.any(axis=1).sum())
                where = f"{label}[{row}, {column}], {rows} rows in all"
                yield difference("rotary-tables", where, wanted[row, column], table[row, column])

    def _tables(self, name: str) -> list[tuple[str, np.ndarray]]:
        """The tables behind an input: one, or those that a node chooses from by the length."""
        graph = self._store.graph
        if name in graph.weights:
            table = self._store.array(graph.weights[name])
            return self._parted(name, table)
        maker = graph.maker.get(name)
        if maker is None or maker.op_type != "If":
            return []
        place = list(maker.output).index(name)
        found = []
        for attribute in maker.attribute:
            branch = attribute.g
            wanted = branch.output[place].name
            for node in branch.node:
                values = [a.t for a in node.attribute if a.name == "value"]
                if wanted in node.output and values:
                    found.append((wanted, self._value(values[0])))
            found += [(t.name, self._value(t)) for t in branch.initializer if t.name == wanted]
        return found

    def _parted(self, name: str, table: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Two tables, where a provider reads the one for long texts below the other."""
        context, first = self._original.context, self._short()
        if context and first and len(table) == first + context:
            return [(name, table[:first]), (f"{name} (long)", table[first:])]
        return [(name, table)]

    def _short(self) -> int | None:
        config: Any = self._original.config
        rope = getattr(config, "rope_parameters", None) or {}
        value = getattr(config, "original_max_position_embeddings", None)
        return value or rope.get("original_max_position_embeddings")

    def _value(self, tensor: Any) -> np.ndarray:
        if tensor.raw_data or not tensor.external_data:
            return np.asarray(numpy_helper.to_array(tensor))
        return self._store.array(tensor)
