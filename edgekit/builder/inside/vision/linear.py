"""A linear layer, in FP32 or with 8-bit weights in blocks of 32."""

import numpy as np
from vision.writing import MICROSOFT, GraphFile

FP32, INT8 = "fp32", "int8"
BLOCK = 32
_ZERO = 128  # what the operator takes for zero where no zero points are given
_ACCURACY = 4  # activations are rounded to 8 bits, as in the text part


def linear(
    graph: GraphFile,
    given: str,
    name: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    precision: str,
) -> str:
    """`given @ weight.T + bias`.

    Args:
        given: name of the input, of shape [..., inputs].
        weight: [outputs, inputs], as torch has it.
        bias: None for none.
        precision: `fp32` or `int8`; where inputs is no multiple of `BLOCK`, it stays in FP32.
    """
    if precision == FP32 or weight.shape[1] % BLOCK:
        product = graph.node("MatMul", given, graph.weight(f"{name}.weight", weight.T))
    else:
        codes, scales = rounded(weight)
        product = graph.node(
            "MatMulNBits",
            given,
            graph.weight(f"{name}.weight_Q8", codes),
            graph.weight(f"{name}.weight_scales", scales),
            domain=MICROSOFT,
            K=weight.shape[1],
            N=weight.shape[0],
            bits=8,
            block_size=BLOCK,
            accuracy_level=_ACCURACY,
        )
    if bias is None:
        return product
    return graph.node("Add", product, graph.weight(f"{name}.bias", bias))


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of shape [outputs, blocks, BLOCK] and scales of [outputs, blocks].

    A value is `scale * (code - 128)`. The scale takes the block's largest value to 127.
    """
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scales = np.abs(blocks).max(-1) / np.float32(127)
    safe = np.where(scales == 0, np.float32(1), scales)[..., None]
    codes = (np.rint(blocks / safe) + _ZERO).astype(np.uint8)
    return codes, scales
