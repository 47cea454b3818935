"""The sampling that a GGUF header recommends, as generation_config.json. Pure."""

from __future__ import annotations

import math
from typing import Any

from edgekit.builder.support.gguf.header import GgufHeader

_PREFIX = "general.sampling."


def sampling_of(header: GgufHeader) -> dict[str, Any]:
    """Fields of generation_config.json; empty where the header recommends nothing.

    What generation_config.json cannot say, or what says nothing there (`top_p` 1), is left out: it
    is a recommendation, and no part of the model. A `top_k` of 0 keeps every token, where
    transformers keeps 50 of a file that is silent.
    """
    said = {
        key.removeprefix(_PREFIX): float(value)
        for key, value in header.values.items()
        if key.startswith(_PREFIX) and isinstance(value, int | float) and math.isfinite(value)
    }
    temperature, top_k = said.get("temp"), said.get("top_k")
    made: dict[str, Any] = {}
    if temperature is not None and temperature <= 0:
        made["do_sample"] = False
    else:
        if temperature is not None:
            made["temperature"] = temperature
        if 0 < said.get("top_p", 0) < 1:
            made["top_p"] = said["top_p"]
        if top_k is not None and (made or top_k >= 1):
            made["top_k"] = max(0, int(top_k))
        if made:
            made["do_sample"] = True
    if 0 < said.get("penalty_repeat", 1) != 1:  # it changes greedy answers, too
        made["repetition_penalty"] = said["penalty_repeat"]
    return made
