"""A faster implementation of onnxruntime's k_quant search with the same bits. numpy only.

For every block of weights the stock function (`quant_tensor_k_quant_cpu` of onnxruntime's
`neural_compressor/weight_only.py`, after llama.cpp) tries 20 scales. It works on whole matrices:
about ten temporaries of a matrix's size for every scale, sums along an axis of 32, one thread. Here
a slab of blocks is transposed to (block size, blocks): every step runs along the long axis inside
the cache, and the slabs run in threads (numpy releases the interpreter's lock).

The same operations in the same order make the same bits. That includes the sums: numpy adds a row
pairwise, and `_total` adds in that order. The order is an implementation detail of numpy, therefore
`same_bits` compares with the stock function. Where they differ, the stock function itself runs slab
by slab, which gives the same bits by construction, because the blocks are independent.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SLAB_BLOCKS = 4096  # 0.5 MB per temporary at block size 32: the working set stays in the cache
STEPS = 20
PAIRWISE_BLOCK = 128  # numpy's PW_BLOCKSIZE: longer rows are split in two

Quantised = tuple[np.ndarray, np.ndarray, np.ndarray]
Quantise = Callable[..., Quantised]
"""(data, bits, block size, …) -> values, scales and zero points, one row per block."""


def in_slabs(quantise: Quantise) -> Quantise:
    """The same function, run on a few rows of the matrix at a time and in threads.

    Args:
        quantise: treats every block by itself. Its values are whole numbers from 0 to 255 as
            float64; they are returned as uint8, to which the caller converts them anyway.
    """

    def slabs(data: np.ndarray, bits: int = 4, block: int = 32, *rest: Any) -> Quantised:
        rows, width = data.shape
        step = max(1, SLAB_BLOCKS * block // width)

        def one(row: int) -> Quantised:
            with np.errstate(all="ignore"):  # the stock search divides by zero at times, too
                values, scale, zero = quantise(data[row : row + step], bits, block, *rest)
            return values.astype(np.uint8), scale, zero

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            parts = list(pool.map(one, range(0, rows, step)))
        values, scales, zeros = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(scales), np.concatenate(zeros)

    return slabs


def search(data: np.ndarray, bits: int = 4, block: int = 32) -> Quantised:
    """The computation of `quant_tensor_k_quant_cpu` for one slab; the names are llama.cpp's.

    Args:
        data: (rows, width), the width a multiple of the block size.

    Returns:
        values (blocks, block size), scales (blocks, 1) in float64, zero points (blocks, 1) uint8.
    """
    x = np.ascontiguousarray(data.reshape(-1, block).T, dtype=np.float32)
    levels = 2**bits - 1
    first, second, third = (np.empty_like(x) for _ in range(3))

    weights = np.abs(x)
    weights += np.sqrt(_total(np.square(x, out=first)) / block)
    low, high = x.min(axis=0), x.max(axis=0)
    sum_w, sum_x = _total(weights), _total(np.multiply(weights, x, out=first))

    def rounded(factor: Any) -> np.ndarray:
        """Write the values for `factor` steps from low to high to `first`; return 1/scale."""
        inverse = np.ones_like(high)
        np.divide(factor, high - low, out=inverse, where=low != high)
        np.subtract(x, low, out=first)
        np.multiply(inverse, first, out=first)
        np.rint(first, out=first)
        np.clip(first, 0, levels, out=first)
        return inverse

    def error(scale: np.ndarray, least: np.ndarray) -> np.ndarray:
        np.multiply(scale, first, out=second)
        np.add(second, least, out=second)
        np.subtract(second, x, out=second)
        np.square(second, out=second)
        return _total(np.multiply(weights, second, out=second))

    scale = 1 / rounded(np.float32(levels))
    best = error(scale, low)
    for step in range(STEPS):
        rounded(np.float32(-1 + 0.1 * step + levels))
        np.multiply(weights, first, out=second)
        sum_l = _total(second)
        sum_l2 = _total(np.multiply(second, first, out=third))
        sum_xl = _total(np.multiply(second, x, out=third))
        determinant = sum_w * sum_l2 - sum_l**2
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        this = error(this_scale, this_low)
        better = this < best
        np.copyto(best, this, where=better)
        np.copyto(scale, this_scale, where=better)
        np.copyto(low, this_low, where=better)

    zero = np.clip((-low / scale).round(), 0, levels).astype(np.uint8)
    scale = scale.astype(np.float64)
    values = np.divide(x, scale)  # in float64
    np.add(values, zero, out=values)
    np.rint(values, out=values)
    np.clip(values, 0, levels, out=values)
    return values.T, scale[:, None], zero[:, None]


def _total(x: np.ndarray) -> np.ndarray:
    """Sum over the first axis in the order in which numpy sums a contiguous row (pairwise sum)."""
    length = len(x)
    if length > PAIRWISE_BLOCK:
        half = length // 2
        half -= half % 8
        return _total(x[:half]) + _total(x[half:])
    sums = x[:8].copy()  # the block sizes are multiples of 8
    for row in range(8, length, 8):
        sums += x[row : row + 8]
    pairs = sums[0::2] + sums[1::2]
    return (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])


def same_bits(one: Quantise, other: Quantise, bits: int, block: int) -> bool:
    """Whether two functions give equal results for sample matrices: weights with distributions of
    real models, few and many, constant blocks and zeros."""
    draw = np.random.default_rng(20260922)
    matrices = [
        draw.standard_normal((257, 3 * block), dtype=np.float32) * np.float32(0.02),
        draw.laplace(size=(64, 5 * block)).astype(np.float32),
        draw.uniform(1.0, 1.5, (33, block)).astype(np.float32),
        np.repeat(draw.standard_normal((40, 2), dtype=np.float32), block, axis=1),
        np.zeros((3, block), np.float32),
    ]
    with np.errstate(all="ignore"):
        return all(
            np.array_equal(np.asarray(mine).astype(theirs.dtype), theirs)
            for matrix in matrices
            for mine, theirs in zip(
                one(matrix, bits, block), other(matrix, bits, block), strict=True
            )
        )
