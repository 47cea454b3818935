"""The matrices of a model's graph, by the names and shapes of the checkpoint's tensors. Pure.

The rules are those of the locked builder (`builders/base.py` of onnxruntime-genai 0.18.0). A
two-dimensional weight of the decoder becomes the operand of a MatMul under the node name used here.
The q, k and v of a layer become one matrix. All other tensors stay as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import msgspec

HEAD = "/lm_head/MatMul"
EMBEDDING = "/model/embed_tokens/Gather"

# https://github.com/huggingface/safetensors, `Dtype`
_DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
    "I16": 16, "U16": 16, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FOREIGN = re.compile(
    r"(^|[._])(vision|visual|vit|audio|speech|image|img|mm_|multi_modal|mtp)|rotary_emb|lora_"
    r"|embed_tokens_extend|(scale_inv|activation_scale|input_scale)$"
)
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")
HEADS = ("lm_head.weight", "output_layer.weight")
_ATTENTION = re.compile(r"^(self_attn|self_attention|attention)\.")
_QKV = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "wqkv"})
_RENAMED = {
    "mlp/dense_4h_to_h": "mlp/down_proj", "feed_forward/w2": "mlp/down_proj",
    "shared_mlp/output_linear": "mlp/down_proj", "linear_attn/in_proj_qkv": "linear_attn/qkv_proj",
    "linear_attn/in_proj_z": "linear_attn/z_proj",
}  # fmt: skip


class Tensor(msgspec.Struct, frozen=True):
    """One entry of a weight file's header: safetensors type name, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.elements * _DTYPE_BITS.get(self.dtype, 8) // 8


class MatrixShape(msgspec.Struct, frozen=True):
    """Node name and shape of one MatMul's weight.

    Attributes:
        node: name of the node in the graph.
        rows, columns: N outputs and K inputs; blocks are cut along the columns.
        expert: belongs to a mixture of experts; a token reads only a few of them.
    """

    node: str
    rows: int
    columns: int
    expert: bool = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.rows * self.columns


def from_headers(tensors: Mapping[str, Tensor]) -> tuple[tuple[MatrixShape, ...], int, int]:
    """The matrices, the number of elements of the embedding, and that of all other tensors."""
    found: dict[str, MatrixShape] = {}
    embedding = other = 0
    for name, tensor in tensors.items():
        if name.endswith(EMBEDDINGS):
            embedding += tensor.elements
        elif matrix := _matrix(name, tensor):
            before = found.get(matrix.node)
            # q, k and v are stacked, and so are the experts of a layer
            rows = matrix.rows + (before.rows if before else 0)
            found[matrix.node] = msgspec.structs.replace(matrix, rows=rows)
        else:
            other += tensor.elements
    return tuple(found.values()), embedding, other


def _matrix(name: str, tensor: Tensor) -> MatrixShape | None:
    if name.endswith(HEADS) or name == "output.weight":
        return _two_dimensional(HEAD, tensor)
    match = LAYER.search(name)
    if not match:
        return None
    layer, path = match[1], match[2].removesuffix(".weight")
    where = f"/model/layers.{layer}/"
    if path.endswith("bias"):
        return None
    if "experts." in path:
        node = f"{where}moe/{path.rpartition('.')[2]}"
        if len(tensor.shape) == 3:  # all experts in one tensor
            count, rows, columns = tensor.shape
            return MatrixShape(node, count * rows, columns, expert=True)
        return _two_dimensional(node, tensor, expert=True)
    path = _ATTENTION.sub("attn.", path).replace(".", "/")
    path = _RENAMED.get(path, path)
    group, _, last = path.rpartition("/")
    if group == "attn" and last in _QKV:
        path = "attn/qkv_proj"
    return _two_dimensional(f"{where}{path}/MatMul", tensor)


def _two_dimensional(node: str, tensor: Tensor, *, expert: bool = False) -> MatrixShape | None:
    if len(tensor.shape) != 2:
        return None
    return MatrixShape(node, tensor.shape[0], tensor.shape[1], expert)


def from_config(
    layers: int, hidden: int, intermediate: int, attention: tuple[int, int, int], experts: int
) -> tuple[MatrixShape, ...]:
    """The matrices of a Llama with these dimensions, or of a mixture of experts."""
    heads, kv_heads, head_dim = attention

    def of_layer(index: int) -> Iterator[MatrixShape]:
        where = f"/model/layers.{index}/"
        queries, keys = heads * head_dim, kv_heads * head_dim
        yield MatrixShape(f"{where}attn/qkv_proj/MatMul", queries + 2 * keys, hidden)
        yield MatrixShape(f"{where}attn/o_proj/MatMul", hidden, queries)
        if experts:
            yield MatrixShape(f"{where}moe/gate_up_proj", experts * 2 * intermediate, hidden, True)
            yield MatrixShape(f"{where}moe/down_proj", experts * hidden, intermediate, True)
            return
        yield MatrixShape(f"{where}mlp/gate_proj/MatMul", intermediate, hidden)
        yield MatrixShape(f"{where}mlp/up_proj/MatMul", intermediate, hidden)
        yield MatrixShape(f"{where}mlp/down_proj/MatMul", hidden, intermediate)

    return tuple(matrix for index in range(layers) for matrix in of_layer(index))


def is_decoder(name: str, layers: int) -> bool:
    """Whether a tensor belongs to the language model: to its first `layers` layers or its ends."""
    if FOREIGN.search(name):
        return False
    match = LAYER.search(name)
    return not match or int(match[1]) < layers
