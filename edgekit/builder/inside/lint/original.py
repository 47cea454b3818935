"""What transformers makes of a source's configuration: attention, norms and rotary tables.

The modules are made without weights (torch's meta device), which takes as long for a large model as
for a small one. Their own attributes are compared, not our reading of config.json.
"""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)$")
_ELSEWHERE = re.compile(r"vision|visual|audio|speech|mtp\.|multi_modal|connector")
_STEP = 2**14  # positions of a rotary table that are computed at a time
_NO_WINDOW = -1  # as the runtime's operators write it


@dataclass(frozen=True)
class Attention:
    """The settings of one layer's attention, in the terms of onnxruntime's operators.

    Attributes:
        scale: factor of the products of queries and keys.
        window: tokens that a token attends to, -1 for all.
        softcap: 0 for none.
        rope: whether queries and keys are rotated.
        kind: the layer's type, which chooses the rotary table; None where there is only one.
    """

    heads: int
    kv_heads: int
    scale: float
    window: int
    softcap: float
    rope: bool
    interleaved: bool
    kind: str | None


class Original:
    """A source's model without its weights.

    Attributes:
        whole, config: the configuration, and that of its text model.
        tied: the head is the embedding.
        parameters: names of the layers' parameters, without the layer.
    """

    def __init__(self, source: Path, trust: bool) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

        self.whole = AutoConfig.from_pretrained(source, trust_remote_code=trust)
        self.config = self.whole.get_text_config()
        with torch.device("meta"):
            try:
                model = AutoModelForCausalLM.from_config(self.whole, trust_remote_code=trust)
            except ValueError:  # no class for text alone
                model = AutoModelForImageTextToText.from_config(self.whole)
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        self.tied = head is not None and head.weight is table.weight
        self.parameters = {
            match[2] for name, _ in model.named_parameters() if (match := _LAYER.search(name))
        }
        self._modules = {
            name: module for name, module in model.named_modules() if not _ELSEWHERE.search(name)
        }
        self._rotary = [
            module
            for module in self._modules.values()
            if type(module).__name__.endswith("RotaryEmbedding")
        ]

    @property
    def context(self) -> int | None:
        """The number of positions that the model was made for."""
        return getattr(self.config, "max_position_embeddings", None)

    def setting(self, name: str) -> Any:
        """A setting that the model's class has; None for another key of config.json.

        transformers keeps a key that its class does not know as an attribute, and reads it nowhere.
        """
        import inspect

        kind = type(self.config)
        if hasattr(kind, name) or name in inspect.signature(kind.__init__).parameters:
            return getattr(self.config, name, None)
        return None

    def attention(self) -> dict[int, Attention]:
        """Layer -> its attention; layers without attention are left out."""
        found = {}
        for name, module in self._modules.items():
            match = _LAYER.search(name)
            if match is None or not hasattr(module, "scaling") or "." in match[2]:
                continue
            groups = getattr(module, "num_key_value_groups", None)
            if groups is not None and hasattr(module, "layer_idx"):
                found[int(match[1])] = self._of(module, int(match[1]), groups)
        return found

    def _of(self, module: Any, layer: int, groups: int) -> Attention:
        kinds = self.setting("layer_types")
        kind = kinds[layer] if kinds else None
        window = self.setting("sliding_window")
        if kind is not None and kind != "sliding_attention":
            window = None
        if window and self.context and window >= self.context:
            window = None  # it never slides
        heads = self.config.num_attention_heads
        nope = self.setting("position_embedding_type") == "nope"
        return Attention(
            heads=heads,
            kv_heads=heads // groups,
            scale=float(module.scaling),
            window=int(window) if window else _NO_WINDOW,
            softcap=float(getattr(module, "attn_logit_softcapping", None) or 0.0),
            rope=bool(getattr(module, "use_rope", True)) and bool(self._rotary) and not nope,
            interleaved=_interleaved(module),
            kind=kind,
        )

    def epsilons(self) -> dict[int | None, set[float]]:
        """Layer -> epsilons of its norms; None for the norms outside the layers."""
        found: dict[int | None, set[float]] = {}
        for name, module in self._modules.items():
            if "Norm" not in type(module).__name__:
                continue
            value = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if isinstance(value, float):
                match = _LAYER.search(name)
                found.setdefault(int(match[1]) if match else None, set()).add(value)
        return found

    def rotary(self, kind: str | None, rows: int, long: bool) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of shape (rows, half of the rotary width), in float32.

        Args:
            kind: the layer's type.
            long: as in a text of all `rows` tokens, where the factors depend on that.

        Raises:
            ValueError: the model has no table of the common form.
        """
        import inspect

        import torch

        if len(self._rotary) != 1:
            raise ValueError(f"the model has {len(self._rotary)} rotary modules")
        module = type(self._rotary[0])(config=self._rotary[0].config)
        wants_kind = "layer_type" in inspect.signature(module.forward).parameters
        more = {"layer_type": kind} if wants_kind else {}
        cosines, sines = [], []
        for first in range(0, rows, _STEP):
            places = list(range(first, min(first + _STEP, rows)))
            # the longest position decides on the factors
            ends = [*places, rows - 1] if long else places
            with torch.no_grad():
                made = _rotated(module, torch.tensor([ends]), more)
            for tables, one in zip((cosines, sines), made, strict=True):
                table = one.float().numpy().reshape(len(ends), -1)
                tables.append(_half(table[: len(places)]))
        return np.concatenate(cosines), np.concatenate(sines)


def _rotated(module: Any, places: Any, more: dict[str, Any]) -> tuple[Any, Any]:
    """Cosines and sines of these positions; the same on each axis of a model with several."""
    import torch

    try:
        cosines, sines = module(torch.zeros(1, 1, 1), places, **more)
    except (IndexError, RuntimeError, ValueError):
        axes = module(torch.zeros(1, 1, 1), places[None].expand(3, 1, -1), **more)
        cosines, sines = (table[0] if table.ndim == 4 else table for table in axes)
    return cosines, sines


def _half(table: np.ndarray) -> np.ndarray:
    """One half of a table whose halves are equal."""
    width = table.shape[1] // 2
    if table.shape[1] % 2 == 0 and np.array_equal(table[:, :width], table[:, width:]):
        return table[:, :width]
    return table


def _interleaved(module: Any) -> bool:
    """Whether neighbours are rotated with each other, by transformers' own function."""
    import torch

    rotate = getattr(sys.modules[type(module).__module__], "rotate_half", None)
    with suppress(Exception):
        if rotate is not None:
            return bool(rotate(torch.arange(4.0))[0] == -1.0)
    return False
