"""The vision part of SmolVLM and Idefics3 as transformers computes it.

transformers' own vision transformer and connector, with the checkpoint's tensors: another road than
the graph's. The small view is made by torch: what is compared is what a model makes of it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from vision.smolvlm import SmolVlmWeights


class SmolVlmSight:
    """Views of a picture to rows of the text's width.

    Args:
        source: a folder of this family (`vision/smolvlm.py`).

    Attributes:
        side: of a view, in pixels.
        place: what the processor replaces by what stands for a picture.
    """

    place = "<image>"

    def __init__(self, source: Path) -> None:
        weights = SmolVlmWeights(source)
        self.side, self._rows = weights.side, (weights.grid // weights.merged) ** 2
        self._tower, self._connector = _modules(weights)

    def content(self, question: str) -> list[dict[str, str]]:
        """A message about a picture, as the chat template takes it."""
        return [{"type": "image"}, {"type": "text", "text": question}]

    def views(self, pixels: np.ndarray) -> np.ndarray:
        """The crops of a picture and the small view of it, f32 [views, 3, side, side].

        Args:
            pixels: u8 [height, width, 3], both multiples of the side; of one crop it is the view.
        """
        side = self.side
        whole = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
        height, width = whole.shape[1] // side, whole.shape[2] // side
        if height * width == 1:
            return np.ascontiguousarray(whole[None].numpy())
        small = torch.nn.functional.interpolate(
            whole[None], size=(side, side), mode="bicubic", antialias=True
        )
        crops = whole.reshape(3, height, side, width, side).permute(1, 3, 0, 2, 4)
        return torch.cat([crops.reshape(-1, 3, side, side), small]).numpy()

    def pieces(self, height: int, width: int) -> list[str | int]:
        """What stands for a picture of height x width crops: texts, and numbers of rows."""
        from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

        split = (0, 0) if height * width == 1 else (height, width)
        whole = get_image_prompt_string(
            *split, 1, "<fake_token_around_image>", self.place, "<global-img>"
        )
        texts = whole.split(self.place)
        made: list[str | int] = [texts[0]]
        for text in texts[1:]:
            made += [self._rows, text]
        return made

    def features(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """Rows [tokens, hidden] of a picture of height x width crops."""
        with torch.inference_mode():
            made = []
            for view in torch.from_numpy(pixels):  # one by one: all at once take gigabytes
                states = self._tower(pixel_values=view[None]).last_hidden_state
                made.append(self._connector(states)[0])
            return torch.cat(made).numpy()


def _modules(weights: SmolVlmWeights) -> tuple[Any, Any]:
    from transformers import SmolVLMConfig
    from transformers.models.smolvlm.modeling_smolvlm import (
        SmolVLMConnector,
        SmolVLMVisionTransformer,
    )

    config = SmolVLMConfig(
        scale_factor=weights.merged,
        text_config={"model_type": "llama", "hidden_size": weights.hidden},
        vision_config={
            "hidden_size": weights.width, "intermediate_size": weights.inner,
            "num_hidden_layers": weights.layers, "num_attention_heads": weights.heads,
            "image_size": weights.side, "patch_size": weights.patch,
            "layer_norm_eps": weights.epsilon,
        },
    )  # fmt: skip
    tower = SmolVLMVisionTransformer._from_config(config.vision_config).eval()
    connector = SmolVLMConnector(config).eval()
    for name, parameter in tower.named_parameters():
        parameter.data = torch.from_numpy(weights.tower(name))
    connector.modality_projection.proj.weight.data = torch.from_numpy(weights.projection())
    return tower, connector
