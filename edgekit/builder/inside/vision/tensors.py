"""The tensors of a checkpoint's vision part, read one at a time, and its embedding."""

from collections.abc import Iterator, Mapping

import numpy as np
from common.reporting import ScriptError
from common.weightfiles import FORMS, Stored, as_float32

_STEP = 2**22  # elements of the embedding that are read at a time


class Tensors:
    """Tensors by name; whoever reads knows which there have to be.

    Args:
        where: name -> place.
        table: names that the embedding may have, the first one first.
    """

    def __init__(self, where: Mapping[str, Stored], table: tuple[str, ...]) -> None:
        self._where, self._table = where, table

    @property
    def embedding(self) -> Stored:
        """Where the embedding lies."""
        found = [name for name in self._table if name in self._where]
        return self._at(found[0] if found else self._table[-1])

    def embedding_parts(self) -> Iterator[np.ndarray]:
        """The embedding as it is stored, some rows at a time."""
        return parts_of(self.embedding)

    def _values(self, name: str) -> np.ndarray:
        at = self._at(name)
        count = int(np.prod(at.shape))
        raw = np.fromfile(at.path, FORMS[at.kind], count, offset=at.start)
        return as_float32(raw.reshape(at.shape), at.kind)

    def _at(self, name: str) -> Stored:
        if name not in self._where:
            raise ScriptError("incomplete", f"the checkpoint lacks {name}")
        if self._where[name].kind not in FORMS:
            kind = self._where[name].kind
            raise ScriptError("incomplete", f"{name} is {kind}; a vision part has to be of floats")
        return self._where[name]

    def _check_shapes(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in wanted.items():
            if (given := self._at(name).shape) != shape:
                sizes = [" x ".join(map(str, each)) for each in (given, shape)]
                raise ScriptError(
                    "incomplete", f"{name} is {sizes[0]}, the rest of the vision part: {sizes[1]}"
                )

    def _check_width(self, hidden: int) -> None:
        if self.embedding.shape[1] != hidden:
            sizes = f"{hidden} wide, the embedding {self.embedding.shape[1]}"
            raise ScriptError("incomplete", f"the vision part's rows are {sizes}")


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a layer's weight and bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def encoder_layer(at: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a layer of CLIP or SigLIP.

    Args:
        inner: width within its MLP.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for each in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= affine(f"{at}.self_attn.{each}", width, width)
    shapes |= affine(f"{at}.mlp.fc1", inner, width) | affine(f"{at}.mlp.fc2", width, inner)
    return shapes | affine(f"{at}.layer_norm1", width) | affine(f"{at}.layer_norm2", width)


def parts_of(at: Stored) -> Iterator[np.ndarray]:
    """A tensor as it is stored, some elements at a time."""
    count, size = int(np.prod(at.shape)), np.dtype(FORMS[at.kind]).itemsize
    for first in range(0, count, _STEP):
        number = min(_STEP, count - first)
        yield np.fromfile(at.path, FORMS[at.kind], number, offset=at.start + first * size)
