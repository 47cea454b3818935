"""The tensors of a Phi-3-vision checkpoint's vision part, by what they are.

Two layouts are known: Microsoft's, whose names hold CLIP's own `vision_model.`, and the one that
transformers 5 saves, without that level. The embedding is `model.embed_tokens`, or `wte` within the
vision part, which is the same module in Microsoft's code.
"""

import re
from pathlib import Path

import numpy as np
from common.reporting import ScriptError
from common.weightfiles import stored
from vision.tensors import Tensors, affine, encoder_layer, parts_of

VISION = "model.vision_embed_tokens."
EMBEDDING, INNER_EMBEDDING = "model.embed_tokens.weight", f"{VISION}wte.weight"
LARGE_WIDTH, LARGE_LAYERS = 1024, 24  # of CLIP's ViT-L, which Microsoft's code always takes
HEAD_WIDTH = 64  # of every CLIP tower; config.json does not name it
SIDE, PATCH = 336, 14  # of a crop and of a patch, in pixels
GRID = SIDE // PATCH  # patches on a side
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_UNUSED = re.compile(r"(^|\.)(position_ids|wte\.weight|post_layernorm\.(weight|bias))$")


class VisionWeights(Tensors):
    """The vision part and the embedding of a checkpoint.

    Args:
        folder: a Hugging Face folder.

    Raises:
        ScriptError: of kind `incomplete`, where a tensor is missing, has another shape than the
            others require, is quantised, or has no place.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(dict(stored(folder)), (EMBEDDING, INNER_EMBEDDING))
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

    def _check(self) -> None:
        wanted = self._wanted()
        self._check_shapes(wanted)
        if self.width == LARGE_WIDTH and self.layers != LARGE_LAYERS:
            # the one before the last is taken, by its number from the end
            raise ScriptError(
                "incomplete", f"the CLIP tower has {self.layers} layers, not {LARGE_LAYERS}"
            )
        self._check_width(self.hidden)
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
            **affine("pre_layrnorm", width),
        }
        for layer in range(self.layers):
            shapes |= encoder_layer(f"encoder.layers.{layer}", width, inner)
        own: dict[str, tuple[int, ...]] = {
            "glb_GN": (1, 1, merged),
            "sub_GN": (1, 1, 1, merged),
            **affine("img_projection.0", self.hidden, merged),
            **affine("img_projection.2", self.hidden, self.hidden),
        }
        return {self._tower + name: shape for name, shape in shapes.items()} | {
            VISION + name: shape for name, shape in own.items()
        }

    def _one_embedding(self) -> bool:
        outer, inner = self._where[EMBEDDING], self._where[INNER_EMBEDDING]
        if (outer.kind, outer.shape) != (inner.kind, inner.shape):
            return False
        pairs = zip(parts_of(outer), parts_of(inner), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)
