"""The size of a built model, by its shape and its required properties. Pure.

The rules are those of the locked builder and of onnxruntime 1.32's `matmul_nbits_quantizer`: a row
of K values is cut into blocks, and the last block is padded; each block has a scale, and a zero
point where the method makes them.
"""

from __future__ import annotations

import math

from edgekit.builder.plan.shape import ModelShape
from edgekit.builder.plan.tensors import EMBEDDING, HEAD, MatrixShape
from edgekit.builder.request.asked import Asked

_TYPE_BYTES = {
    "float": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "float8e4m3fn": 1.0, "uint8": 0.5,
}  # fmt: skip

# For these families the size was compared with a tiny built model of every precision, to the byte.
_EXACT = frozenset(
    {
        "Ernie4_5ForCausalLM", "Gemma2ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM", "HunYuanDenseV1ForCausalLM", "Lfm2ForCausalLM",
        "LlamaForCausalLM", "MistralForCausalLM", "NemotronForCausalLM", "Phi3ForCausalLM",
        "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM",
    }
)  # fmt: skip
_FLOAT_NORMS = frozenset({"Gemma2ForCausalLM"})  # their norms stay float32 in a float16 model
_CHANGES_SIZE = frozenset({"adapter_path", "exclude_embeds", "exclude_lm_head", "use_qdq"})
# measured size of the graph and of a layer's nodes and names, rotary tables left out
_GRAPH_BYTES, _LAYER_BYTES, _ZEROED_LAYER_BYTES, _HALF_LAYER_BYTES = 5_000, 7_400, 8_600, 24_000


def data_bytes(shape: ModelShape, asked: Asked) -> int:
    """Size of `model.onnx.data` in bytes; exact where `inexact` returns an empty string."""
    float_bytes = _TYPE_BYTES[asked.io_type]
    tables = shape.rope_tables * 2 * shape.context * (shape.rope_dim // 2)
    if shape.short_context:
        tables = 0  # LongRoPE's tables lie in the graph
    return int(
        sum(matrix_sizes(shape, asked).values())
        + _embedding_bytes(shape, asked)
        + float_bytes * (shape.other + tables)
    )


def matrix_sizes(shape: ModelShape, asked: Asked) -> dict[str, int]:
    """Node -> stored bytes of its weight: packed values, scales and zero points."""
    groups = asked.placed((each.node for each in shape.matrices), shape.layers)
    return {
        each.node: _matrix_bytes(each, asked, asked.placement.get(groups.get(each.node, ""), 0))
        for each in shape.matrices
    }


def kv_bytes_per_token(shape: ModelShape, asked: Asked) -> int:
    """Bytes of the keys and values of one token in all layers."""
    per_layer = 2 * shape.kv_heads * shape.head_dim * _TYPE_BYTES[asked.cache_type]
    return int(shape.kv_layers * per_layer)


def graph_bytes(shape: ModelShape, asked: Asked) -> int:
    """Estimated size of `model.onnx` in bytes, with LongRoPE's tables."""
    per_layer = _ZEROED_LAYER_BYTES if _has_zero_points(asked) else _LAYER_BYTES
    if (asked.provider, asked.io_type) == ("cpu", "float16"):
        per_layer = _HALF_LAYER_BYTES  # no grouped attention: the mask is made in the graph
    tables = _TYPE_BYTES[asked.io_type] * long_rope_elements(shape)
    return int(tables) + per_layer * shape.layers + _GRAPH_BYTES


def quantised_bytes(shape: ModelShape, asked: Asked) -> int:
    """Stored bytes of the weights that the builder quantises itself."""
    if not asked.bits or asked.checkpoint or "MatMul" not in asked.op_types:
        return 0
    sizes = matrix_sizes(shape, asked)
    return sum(size for node, size in sizes.items() if node not in asked.excluded)


def read_bytes_per_token(shape: ModelShape, asked: Asked) -> int:
    """Bytes of weights that decoding one token reads: all but the embedding and idle experts."""
    share = shape.active_experts / shape.experts if shape.experts else 1.0
    experts = {each.node for each in shape.matrices if each.expert}
    sizes = matrix_sizes(shape, asked)
    weights = sum(size * (share if node in experts else 1.0) for node, size in sizes.items())
    return int(weights + shape.other * _TYPE_BYTES[asked.io_type])


def long_rope_elements(shape: ModelShape) -> int:
    """Elements of LongRoPE's tables: cosine and sine, for the short and for the long context."""
    rows = shape.context + shape.short_context if shape.short_context else 0
    return 2 * rows * (shape.rope_dim // 2)


def uneven_matrix(shape: ModelShape, asked: Asked) -> MatrixShape | None:
    """A matrix that onnxruntime's k_quant and rtn cannot quantise, or None.

    They pack 4-bit zero points in pairs across all rows, and then split the result into rows. With
    an odd number of blocks per row that fails with "cannot reshape array".
    """
    if asked.method == "default" or not _has_zero_points(asked):
        return None
    groups = asked.placed((each.node for each in shape.matrices), shape.layers)
    for each in shape.matrices:
        bits = asked.placement.get(groups.get(each.node, ""), asked.bits)
        blocks = math.ceil(each.columns / asked.block_size)
        if bits == 4 and blocks % 2 and not each.expert and each.node not in asked.excluded:
            return each
    return None


def inexact(shape: ModelShape, asked: Asked) -> str:
    """Why `data_bytes` is an estimate; an empty string where it is exact.

    An exact size can still be wrong for a bias of zeros, which the builder leaves out.
    """
    if asked.checkpoint:
        return "the checkpoint is quantised already and keeps its own form"
    if not shape.from_headers:
        return "there are no headers to read, config.json alone says how large it is"
    if shape.experts:
        return "it is a mixture of experts"
    if shape.architecture not in _EXACT:
        return f"no {shape.architecture} was compared with a built one yet"
    half = asked.io_type != "float" and shape.architecture in _FLOAT_NORMS
    # of an embedding that is not the head, all is known: it is left out
    known = set() if shape.tied else {"exclude_embeds"}
    if half or asked.op_types != ("MatMul",) or (_CHANGES_SIZE - known) & asked.given.keys():
        return "an option changes which weights are written"
    return ""


def _matrix_bytes(matrix: MatrixShape, asked: Asked, placed_bits: int) -> int:
    float_bytes = int(_TYPE_BYTES[asked.io_type])
    bits, block, zero_points = placed_bits or asked.bits, asked.block_size, _has_zero_points(asked)
    if matrix.expert:
        bits, block = asked.expert_bits, asked.expert_block
        zero_points = False
    elif asked.checkpoint and matrix.node != HEAD:
        bits = max(asked.checkpoint.bits, default=4)
        block = min(asked.checkpoint.block_size, default=128)
        zero_points = True
    elif "MatMul" not in asked.op_types or matrix.node in asked.excluded:
        bits = 0
    if not bits or matrix.node in asked.excluded:
        return matrix.elements * float_bytes
    blocks = math.ceil(matrix.columns / block)
    packed = blocks * block * bits // 8
    zeros = math.ceil(blocks * bits / 8) if zero_points else 0
    return matrix.rows * (packed + blocks * float_bytes + zeros)


def _embedding_bytes(shape: ModelShape, asked: Asked) -> int:
    """Bytes of the embedding's tensor; 0 where it shares the head's."""
    if asked.given.get("exclude_embeds") == "true":
        return 0
    shared = shape.tied and asked.given.get("shared_embeddings") != "false"
    types = {*asked.op_types, *(("MatMul", "Gather") if shared else ())}
    # GatherBlockQuantized takes four bits and no others
    embedding = asked.bits == 4 and "Gather" in types and EMBEDDING not in asked.excluded
    head = asked.bits > 0 and "MatMul" in types and HEAD not in asked.excluded
    if shared and embedding == head:
        return 0
    if not embedding:
        return int(shape.embedding * _TYPE_BYTES[asked.io_type])
    table = MatrixShape(EMBEDDING, shape.vocabulary, shape.embedding // shape.vocabulary)
    return _matrix_bytes(table, asked, 0)


def _has_zero_points(asked: Asked) -> bool:
    return asked.bits > 0 and (asked.method == "k_quant" or not asked.symmetric)
