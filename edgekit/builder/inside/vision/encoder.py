"""The parts of a vision tower that CLIP and SigLIP have in common, as nodes of a graph."""

from collections.abc import Callable

import numpy as np
from vision.linear import linear
from vision.writing import MICROSOFT, GraphFile

Read = Callable[[str], np.ndarray]
Activation = Callable[[GraphFile, str], str]


def patches(graph: GraphFile, pixels: str, kernel: np.ndarray, count: int) -> str:
    """The patches of views [views, count, width].

    Args:
        pixels: views [views, 3, side, side].
        kernel: the tower's [width, 3, patch, patch].
    """
    width, _, size, _ = kernel.shape
    name = graph.weight("patch", kernel)
    x = graph.node("Conv", pixels, name, kernel_shape=[size] * 2, strides=[size] * 2)
    x = graph.node("Reshape", x, graph.numbers(0, width, count))
    return graph.node("Transpose", x, perm=[0, 2, 1])


def norm(graph: GraphFile, read: Read, x: str, name: str, epsilon: float) -> str:
    """A layer norm."""
    parts = [graph.weight(f"{name}.{part}", read(f"{name}.{part}")) for part in ("weight", "bias")]
    return graph.node("LayerNormalization", x, *parts, axis=-1, epsilon=epsilon)


def layer(
    graph: GraphFile,
    read: Read,
    x: str,
    at: str,
    precision: str,
    heads: int,
    epsilon: float,
    activation: Activation,
) -> str:
    """A transformer layer whose norms come first.

    Args:
        read: a tensor of the tower as float32, by its name there.
        at: beginning of the layer's names.
        heads: number of attention heads.
    """

    def apply(given: str, name: str) -> str:
        name = f"{at}.{name}"
        return linear(graph, given, name, read(f"{name}.weight"), read(f"{name}.bias"), precision)

    y = norm(graph, read, x, f"{at}.layer_norm1", epsilon)
    looked = [apply(y, f"self_attn.{each}_proj") for each in "qkv"]
    y = graph.node("MultiHeadAttention", *looked, domain=MICROSOFT, num_heads=heads)
    x = graph.node("Add", x, apply(y, "self_attn.out_proj"))
    y = apply(norm(graph, read, x, f"{at}.layer_norm2", epsilon), "mlp.fc1")
    return graph.node("Add", x, apply(activation(graph, y), "mlp.fc2"))


def cells(graph: GraphFile, states: str, side: int, merged: int, width: int) -> str:
    """Neighbouring patches as one cell [views * cells, merged * merged * width].

    Args:
        states: [views, patches, width].
        side: cells on a side of a view.
        merged: patches on a side of a cell.
    """
    split = (-1, side, merged, side, merged, width)
    x = graph.node("Reshape", states, graph.numbers(*split))
    x = graph.node("Transpose", x, perm=[0, 1, 3, 2, 4, 5])
    return graph.node("Reshape", x, graph.numbers(-1, merged * merged * width))
