"""The vision part of Phi-3-vision as torch computes it, from a checkpoint's own tensors.

transformers' CLIP, and the HD transform by loops: another road than the graph's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from vision.weights import SIDE, VisionWeights

CELLS = 12
# of OpenAI's CLIP, by channel
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def _views(pixels: np.ndarray) -> np.ndarray:
    """The global view and the crops of a picture, f32 [views, 3, 336, 336].

    Args:
        pixels: u8 [height, width, 3], both multiples of 336.
    """
    whole = (pixels.astype(np.float32) / 255 - np.float32(_MEAN)) / np.float32(_DEVIATION)
    whole = np.ascontiguousarray(whole.transpose(2, 0, 1))
    small = torch.nn.functional.interpolate(
        torch.from_numpy(whole)[None], size=(SIDE, SIDE), mode="bicubic"
    )[0].numpy()
    height, width = whole.shape[1] // SIDE, whole.shape[2] // SIDE
    crops = whole.reshape(3, height, SIDE, width, SIDE).transpose(1, 3, 0, 2, 4)
    return np.concatenate([small[None], crops.reshape(-1, 3, SIDE, SIDE)])


class Phi3VSight:
    """Views of a picture to rows of the text's width.

    Args:
        source: the checkpoint.

    Attributes:
        side: of a view, in pixels.
        place: what the processor replaces by what stands for a picture.
    """

    side = SIDE
    place = "<|image_1|>"

    def __init__(self, source: Path) -> None:
        weights = VisionWeights(source)
        self._clip = _clip(weights)
        self._projector = torch.nn.Sequential(
            _linear(weights, "img_projection.0"), torch.nn.GELU(),
            _linear(weights, "img_projection.2"),
        )  # fmt: skip
        self._glb, self._sub = (
            torch.from_numpy(weights.own(name).reshape(-1)) for name in ("glb_GN", "sub_GN")
        )

    def content(self, question: str) -> str:
        """A message about a picture, as the chat template takes it."""
        return f"{self.place}\n{question}"

    def views(self, pixels: np.ndarray) -> np.ndarray:
        """The views of a picture."""
        return _views(pixels)

    def pieces(self, height: int, width: int) -> list[str | int]:
        """What stands for a picture of height x width crops: texts, and numbers of rows."""
        return [(height * width + 1) * CELLS**2 + 1 + (height + 1) * CELLS]

    def features(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """Rows [tokens, hidden] of a picture of height x width crops."""
        with torch.inference_mode():
            seen = self._clip(torch.from_numpy(pixels), output_hidden_states=True)
            states = seen.hidden_states[-2][:, 1:]
            rows = self._rows(states[1:], height, width)
            rows += [self._glb, *self._rows(states[:1], 1, 1)]
            return self._projector(torch.stack(rows)).numpy()

    def _rows(self, states: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        made = []
        side = 2 * CELLS
        for row in range(height * CELLS):
            for column in range(width * CELLS):
                crop = states[row // CELLS * width + column // CELLS].reshape(side, side, -1)
                top, left = 2 * (row % CELLS), 2 * (column % CELLS)
                made.append(crop[top : top + 2, left : left + 2].reshape(-1))
            made.append(self._sub)
        return made


def _clip(weights: VisionWeights) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    inner = weights.tower("encoder.layers.0.mlp.fc1.bias").shape[0]
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=weights.width, intermediate_size=inner,
            num_hidden_layers=weights.layers, num_attention_heads=weights.heads,
            image_size=SIDE, patch_size=14, hidden_act="quick_gelu", layer_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip
    for name, parameter in model.named_parameters():
        own = name.removeprefix("vision_model.")
        if own.startswith("post_layernorm"):  # after the states that are taken
            continue
        parameter.data = torch.from_numpy(weights.tower(own))
    return model


def _linear(weights: VisionWeights, name: str) -> torch.nn.Linear:
    weight, bias = (torch.from_numpy(weights.own(f"{name}.{part}")) for part in ("weight", "bias"))
    made = torch.nn.Linear(weight.shape[1], weight.shape[0])
    made.weight.data, made.bias.data = weight, bias
    return made
