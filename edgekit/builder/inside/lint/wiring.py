"""Checks which node feeds which in a graph of the model builder; needs no source.

The builder names a node after its place (`/model/layers.3/attn/o_proj/MatMul`), its weights after
the node and its outputs after both. All layers with the same nodes are wired alike. A graph that
somebody changed breaks one of these rules.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from lint.difference import difference
from lint.graph import ResolvedGraph, attributes
from onnx import GraphProto, NodeProto, numpy_helper

_LAYER = re.compile(r"layers\.(\d+)(?=[/.])")
_CACHE = re.compile(r"^(past|present)\w*\.(\d+)\.(\w+)$")
_CONSTANT = re.compile(r"^/model/constants/\w+/(.+)$")
_QUANTISED = re.compile(r"(_DQ)?_Q\d+(G\d+)?$|NBits$")
_PROJECTION = re.compile(r"/attn/(q|k|v|qkv)_proj/")
_MATMULS = {"MatMul", "MatMulNBits"}
# operator -> the input that takes the first cache, and the first of the inputs q, k, v
_ATTENTION = {"GroupQueryAttention": 3, "MultiHeadAttention": 6, "PagedAttention": 3}
_ROTARY_INPUTS = {
    "GroupQueryAttention": (7, 8),
    "RotaryEmbedding": (2, 3),
    "MRotaryEmbedding": (2, 3),
}
_FREE = {"bits", "block_size", "accuracy_level", "scale", "local_window_size", "softcap"}
"""Attributes that may differ from layer to layer; `attention.py` and the lint compare them."""


def wiring(graph: ResolvedGraph) -> list[dict[str, str]]:
    """Every connection that breaks a rule."""
    checks = (
        _caches, _inputs_of_attention, _operands, _shared_table, _layers_alike, _unused, _constants,
    )  # fmt: skip
    return [found for check in checks for found in check(graph)]


def layer_of(name: str) -> int | None:
    """The layer that a node or a tensor belongs to."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _caches(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """Every layer reads and writes its own caches, keys as keys and values as values."""
    for node in graph.proto.node:
        layer = layer_of(node.name)
        first = _ATTENTION.get(node.op_type)
        places = ((node.input, "past", first), (node.output, "present", first and 1))
        for names, kind, slot in places:
            for number, name in enumerate(names):
                cache = _CACHE.match(name)
                if cache is None or layer is None:
                    continue
                wanted = [cache[1], str(layer), _part(node.name) or cache[3]]
                if slot is not None and number - slot in (0, 1):
                    wanted = [kind, str(layer), ("key", "value")[number - slot]]
                if list(cache.groups()) != wanted:
                    yield difference("cache-wiring", node.name, ".".join(wanted), name)


def _part(name: str) -> str | None:
    """The cache of a node that is not the attention itself: one that joins or repeats keys."""
    return "key" if "/k_proj/" in name else "value" if "/v_proj/" in name else None


def _inputs_of_attention(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """Query, key and value come from their own projections."""
    for node in graph.proto.node:
        if node.op_type not in _ATTENTION:
            continue
        for number, letter in enumerate("qkv"):
            origins = _origins(graph, node.input[number]) if len(node.input) > number else set()
            if origins - {letter, "qkv"}:
                found = " and ".join(sorted(f"{origin}_proj" for origin in origins))
                yield difference(
                    "graph-wiring", node.name, f"{letter}_proj as input {number}", found
                )


def _origins(graph: ResolvedGraph, name: str) -> set[str]:
    """The projections that a value is computed from: q, k, v, or qkv where all are in one."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        node = graph.maker.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        match = _PROJECTION.search(node.name)
        if match and node.op_type in _MATMULS:
            found.add(match[1])
            continue
        if node.op_type == "Split":
            inner = _origins(graph, node.input[0])
            place = list(node.output).index(name)
            found |= {"qkv"[place]} if inner == {"qkv"} and place < 3 else inner
            continue
        if layer_of(node.name) is not None and "/attn/" in node.name:
            waiting += node.input
    return found


def _operands(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """A node's weights have the node's own name."""
    for node in graph.proto.node:
        layer = layer_of(node.name)
        stem = node.name.strip("/").replace("/", ".").rsplit(".", 1)[0]
        for name in node.input:
            if name not in graph.weights or (own := layer_of(name)) is None:
                continue
            # `model.layers.1.attn.q_norm` and `…q_norm.layernorm.weight`
            near = node.op_type not in _MATMULS and "Norm" not in node.op_type
            if own != layer or not (near or name.startswith(stem)):
                yield difference("graph-wiring", node.name, f"a weight of {stem}", name)


def _shared_table(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """An embedding that uses the head's bytes also uses its scales, zero points and block."""
    heads = {n.input[1]: n for n in graph.proto.node if n.op_type == "MatMulNBits"}
    for node in graph.proto.node:
        maker = graph.maker.get(node.input[0]) if node.op_type == "GatherBlockQuantized" else None
        head = heads.get(maker.input[0]) if maker is not None else None
        if head is None:
            continue
        mine, theirs = list(node.input[2:4]), list(head.input[2:4])
        if mine != theirs:
            yield difference("graph-wiring", node.name, " ".join(theirs), " ".join(mine))
        one, other = attributes(node), attributes(head)
        for name in ("bits", "block_size"):
            if one.get(name) != other.get(name):
                yield difference("graph-wiring", f"{node.name} {name}", other[name], one.get(name))


def _layers_alike(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """Layers that consist of the same nodes are wired alike."""
    by_layer: dict[int, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for node in graph.proto.node:
        layer = layer_of(node.name)
        if layer is not None and node.op_type != "DequantizeLinear":
            by_layer[layer][_relative(_QUANTISED.sub("", node.name), layer)] = _form(node, layer)
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    for layer, nodes in sorted(by_layer.items()):
        groups[frozenset(nodes)].append(layer)
    for nodes_of, layers in groups.items():
        for name in sorted(nodes_of):
            forms = Counter(by_layer[layer][name] for layer in layers)
            usual = forms.most_common(1)[0][0]
            for layer in layers:
                form = by_layer[layer][name]
                if form != usual:
                    where = name.replace("layers.+0", f"layers.{layer}")
                    expected, found = _first_unlike(usual, form)
                    yield difference("graph-wiring", where, expected, found)


def _form(node: NodeProto, layer: int) -> tuple[Any, ...]:
    free = _ROTARY_INPUTS.get(node.op_type, ())
    names = [name for place, name in enumerate(node.input) if place not in free]
    if node.op_type in _MATMULS:
        names, kind, has = names[:1], "MatMul", {}
    else:
        kind, has = node.op_type, attributes(node)
    own = {name: value for name, value in has.items() if name not in _FREE}
    if node.op_type == "GroupQueryAttention":
        own.pop("do_rotary", None)  # SmolLM3 has layers without
    return (
        kind,
        *(_relative(name, layer) for name in names),
        "->",
        *(_relative(name, layer) for name in node.output),
        *(f"{name}={value}" for name, value in sorted(own.items())),
    )


def _first_unlike(usual: tuple[Any, ...], form: tuple[Any, ...]) -> tuple[str, str]:
    for one, other in zip(usual, form, strict=False):
        if one != other:
            return str(one), str(other)
    return f"{len(usual)} connections", f"{len(form)} connections"


def _relative(name: str, layer: int) -> str:
    """A name with the distance of its layer from this one; `_caches` compares those of caches."""
    if _CACHE.match(name):
        return "cache"
    return _LAYER.sub(lambda match: f"layers.{int(match[1]) - layer:+d}", name)


def _unused(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """Everything that is computed is used."""
    used = {output.name for output in graph.proto.output} | _read_by(graph.proto)
    for node in graph.proto.node:
        for name in node.output:
            # of the chosen experts only the numbers may count
            if name and name not in used and node.op_type != "TopK":
                yield difference("graph-wiring", name, "used by another node", "not used")
    for name in (*(entry.name for entry in graph.proto.input), *graph.weights):
        if name not in used:
            yield difference("graph-wiring", name, "used by a node", "not used")


def _read_by(proto: GraphProto) -> set[str]:
    names = {name for node in proto.node for name in node.input}
    for node in proto.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _read_by(attribute.g) | {output.name for output in attribute.g.output}
    return names


def _constants(graph: ResolvedGraph) -> Iterator[dict[str, str]]:
    """A constant has the value that its name says."""
    for node in graph.proto.node:
        match = _CONSTANT.match(node.output[0]) if node.op_type == "Constant" else None
        tensors = [a.t for a in node.attribute if a.name == "value"]
        if match is None or not tensors:
            continue
        try:
            wanted = np.array(ast.literal_eval(match[1]), np.float64)
        except (ValueError, SyntaxError, TypeError):
            continue  # `inf` and the like
        have = numpy_helper.to_array(tensors[0]).astype(np.float64)
        if wanted.shape != have.shape or not np.allclose(wanted, have, rtol=1e-2, atol=1e-6):
            yield difference("graph-wiring", node.output[0], match[1], str(have.tolist()))
