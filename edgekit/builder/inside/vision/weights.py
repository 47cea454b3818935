"""The tensors of a Phi-3-vision checkpoint's vision part, by what they are.

Two layouts are known: Microsoft's, whose names hold CLIP's own `vision_model.`, and the one that
transformers 5 saves, without that level. The embedding is `model.embed_tokens`, or `wte` within the
vision part, which is the same module in Microsoft's code.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common.reporting import ScriptError
from common.weightfiles import FORMS, Stored, as_float32, stored

VISION = "model.vision_embed_tokens."
EMBEDDING, INNER_EMBEDDING = "model.embed_tokens.weight", f"{VISION}wte.weight"
LARGE_WIDTH, LARGE_LAYERS = 1024, 24  # of CLIP's ViT-L, which Microsoft's code always takes
HEAD_WIDTH = 64  # of every CLIP tower; config.json does not name it
SIDE, PATCH = 336, 14  # of a crop and of a patch, in pixels
GRID = SIDE // PATCH  # patches on a side
_STEP = 2**22  # elements of the embedding that are read at a time
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_UNUSED = re.compile(r"(^|\.)(position_ids|wte\.weight|post_layernorm\.(weight|bias))$")


class VisionWeights:
    """The vision part and the embedding of a checkpoint.

    Args:
        folder: a Hugging Face folder.

    Raises:
        ScriptError: of kind `incomplete`, where a tensor is missing, has another shape than the
            others require, is quantised, or has no place.
    """

    def __init__(self, folder: Path) -> None:
        self._where = dict(stored(folder))
        tower = f"{VISION}img_processor."
        deeper = f"{tower}vision_model."
        self._tower = deeper if any(name.startswith(deeper) for name in self._where) else tower
        self.width = self._at(f"{self._tower}embeddings.class_embedding").shape[0]
        self.hidden = self._at(f"{VISION}img_projection.2.bias").shape[0]
        found = [_LAYER.match(name.removeprefix(self._tower)) for name in self._where]
        self.layers = 1 + max((int(match[1]) for match in found if match), default=-1)
        self._check()

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // HEAD_WIDTH

    def tower(self, name: str) -> np.ndarray:
        """A tensor of the CLIP tower as float32, by its name there."""
        return self._values(self._tower + name)

    def own(self, name: str) -> np.ndarray:
        """A tensor of the vision part outside the tower as float32, by its name there."""
        return self._values(VISION + name)

    @property
    def embedding(self) -> Stored:
        """Where the embedding lies."""
        return self._at(EMBEDDING if EMBEDDING in self._where else INNER_EMBEDDING)

    def embedding_parts(self) -> Iterator[np.ndarray]:
        """The embedding as it is stored, some rows at a time."""
        return _parts(self.embedding)

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

    def _check(self) -> None:
        wanted = self._wanted()
        for name, shape in wanted.items():
            if (given := self._at(name).shape) != shape:
                sizes = [" x ".join(map(str, each)) for each in (given, shape)]
                raise ScriptError(
                    "incomplete", f"{name} is {sizes[0]}, the rest of the vision part: {sizes[1]}"
                )
        if self.width == LARGE_WIDTH and self.layers != LARGE_LAYERS:
            # the one before the last is taken, by its number from the end
            raise ScriptError(
                "incomplete", f"the CLIP tower has {self.layers} layers, not {LARGE_LAYERS}"
            )
        if self.embedding.shape[1] != self.hidden:
            sizes = f"{self.hidden} wide, the embedding {self.embedding.shape[1]}"
            raise ScriptError("incomplete", f"the vision part's rows are {sizes}")
        if self.width % HEAD_WIDTH:
            raise ScriptError("incomplete", f"a CLIP tower is not {self.width} wide")
        strange = [
            name
            for name in sorted(self._where)
            if name.startswith(VISION) and name not in wanted and not _UNUSED.search(name)
        ]
        if strange:
            raise ScriptError("incomplete", f"the vision part has no place for {strange[0]}")
        if {EMBEDDING, INNER_EMBEDDING} <= self._where.keys() and not self._one_embedding():
            raise ScriptError("incomplete", f"{EMBEDDING} and {INNER_EMBEDDING} differ")

    def _wanted(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, also of the last layer, which is not used."""
        width, merged = self.width, 4 * self.width
        inner = self._at(f"{self._tower}encoder.layers.0.mlp.fc1.bias").shape[0]
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.class_embedding": (width,),
            "embeddings.patch_embedding.weight": (width, 3, PATCH, PATCH),
            "embeddings.position_embedding.weight": (GRID * GRID + 1, width),
            **_affine("pre_layrnorm", width),
        }
        for layer in range(self.layers):
            at = f"encoder.layers.{layer}"
            for name in _LINEARS:
                shapes |= _affine(f"{at}.{name}", width, width)
            shapes |= _affine(f"{at}.mlp.fc1", inner, width)
            shapes |= _affine(f"{at}.mlp.fc2", width, inner)
            shapes |= _affine(f"{at}.layer_norm1", width)
            shapes |= _affine(f"{at}.layer_norm2", width)
        own: dict[str, tuple[int, ...]] = {
            "glb_GN": (1, 1, merged),
            "sub_GN": (1, 1, 1, merged),
            **_affine("img_projection.0", self.hidden, merged),
            **_affine("img_projection.2", self.hidden, self.hidden),
        }
        return {self._tower + name: shape for name, shape in shapes.items()} | {
            VISION + name: shape for name, shape in own.items()
        }

    def _one_embedding(self) -> bool:
        outer, inner = self._where[EMBEDDING], self._where[INNER_EMBEDDING]
        if (outer.kind, outer.shape) != (inner.kind, inner.shape):
            return False
        pairs = zip(_parts(outer), _parts(inner), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _parts(at: Stored) -> Iterator[np.ndarray]:
    count, size = int(np.prod(at.shape)), np.dtype(FORMS[at.kind]).itemsize
    for first in range(0, count, _STEP):
        number = min(_STEP, count - first)
        yield np.fromfile(at.path, FORMS[at.kind], number, offset=at.start + first * size)
