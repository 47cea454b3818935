"""Tensors of a checkpoint that no build reads, and whose absence changes nothing. Pure.

Any other tensor without a place in the model is a reason to refuse it. `inside/convert.py` gets the
patterns for transformers' loading report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgekit.builder.support.architectures import ARCHITECTURES
from edgekit.builder.support.modelconfig import architecture_of

LEFTOVERS = {
    r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$": "computed from config.json",
    r"(^|\.)position_ids$": "the numbers 0, 1, 2 and so on",
    r"(^|[._])attn\.(masked_)?bias$": "the causal mask",
    r"(^|\.)attention\.(masked_)?bias$": "the causal mask",
    r"^(model\.)?mtp\.": "predicts further tokens at once; transformers leaves it out, too",
    r"^v_head\.": "the value head of TRL's training",
}
"""Pattern of the name -> what the tensor is."""

OTHER_SENSES = r"(^|[._])(vision|visual|vit|audio|speech|image|img|mm_|multi_modal)"
"""The parts of a model that sees or hears; a build takes its language part alone."""

_ANY = re.compile("|".join(f"(?:{pattern})" for pattern in LEFTOVERS))


def is_leftover(tensor: str) -> bool:
    """Whether the model is the same without this tensor."""
    return _ANY.search(tensor) is not None


def explained(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns of the names of tensors that need no place in this model."""
    known = ARCHITECTURES.get(architecture_of(config))
    senses = known is not None and known.kind in ("text part", "pictures")
    return (*LEFTOVERS, OTHER_SENSES) if senses else tuple(LEFTOVERS)
