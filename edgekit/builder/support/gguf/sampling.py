"""The sampling that a GGUF header recommends, as generation_config.json. Pure."""

from __future__ import annotations

import math
from typing import Any

from edgekit.builder.support.gguf.header import GgufHeader

_PREFIX = "general.sampling."


def sampling_of(header: GgufHeader) -> dict[str, Any]:
    """Fields of generation_config.json; empty where the header recommends nothing.

    What generation_config.json cannot say, or what says nothing there (`top_k` 0, `top_p` 1), is
    left out: it is a recommendation, and no part of the model.
    """
    said = {
        key.removeprefix(_PREFIX): float(value)
        for key, value in header.values.items()
        if key.startswith(_PREFIX) and isinstance(value, int | float) and math.isfinite(value)
    }
    temperature = said.get("temp")
    if temperature is not None and temperature <= 0:
        return {"do_sample": False}
    made: dict[str, Any] = {}
    if temperature is not None:
        made["temperature"] = temperature
    if said.get("top_k", 0) >= 1:
        made["top_k"] = int(said["top_k"])
    if 0 < said.get("top_p", 0) < 1:
        made["top_p"] = said["top_p"]
    sampled = {"do_sample": True} if made else {}
    if 0 < said.get("penalty_repeat", 1) != 1:
        made["repetition_penalty"] = said["penalty_repeat"]
    return made | sampled
