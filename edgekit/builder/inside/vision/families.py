"""The families of models whose part that sees is built, for the scripts; each by its modules."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision import smolvlm, tower
from vision.weights import VisionWeights


@dataclass(frozen=True)
class GraphFamily:
    """How the part that sees is read and written.

    Attributes:
        weights: reads the vision part and the embedding of a folder.
        write: writes the vision graph of these weights, to a graph and in a precision.
        looks: module and class of its reference in torch.
    """

    weights: Callable[[Path], Any]
    write: Callable[..., None]
    looks: str


_SMOLVLM = GraphFamily(smolvlm.SmolVlmWeights, smolvlm.write_vision, "sight.smolvlm:SmolVlmSight")
FAMILIES = {
    "Phi3VForCausalLM": GraphFamily(VisionWeights, tower.write_vision, "sight.phi3v:Phi3VSight"),
    "SmolVLMForConditionalGeneration": _SMOLVLM,
    "Idefics3ForConditionalGeneration": _SMOLVLM,
}
"""Architecture -> family."""


def family_of(source: Path) -> GraphFamily | None:
    """The family of a folder that the model builder reads; None for a model of text alone."""
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    given = told.get(smolvlm.SETTINGS, {}).get("architecture")
    return FAMILIES.get(given or (told.get("architectures") or [""])[0])
