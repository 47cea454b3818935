"""Ollama's `options` as fields of OpenAI's body: served, without effect, or refused by name. Pure.

Names and meanings are those of Ollama's Modelfile reference and of its API's `Options`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgekit.gateway import body
from edgekit.gateway.refusals import of_code

SERVED = {
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    **{
        name: name
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "stop",
        )
    },
}
# Values by which Ollama means that there is none
_NONE: dict[str, tuple[Any, ...]] = {"num_predict": (-1, -2), "seed": (-1,), "stop": ([],)}
# How Ollama's own machine runs a model. `num_ctx` and `num_keep` are among them: a device has its
# own context, and refuses a conversation that is too long instead of cutting it.
_MACHINE = (
    *("num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread"),
    *("numa", "low_vram", "use_mmap", "use_mlock"),
)
# Served with the values that change nothing; of Mirostat the others mean something where it is on
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "repeat_last_n": (-1,),  # a device counts the whole prompt and answer
    "typical_p": (1,),
    "tfs_z": (1,),
    "mirostat": (0,),
}
_OF_MIROSTAT = ("mirostat_tau", "mirostat_eta")


def fields(options: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The fields of a body that say the same.

    Raises:
        HttpError: an option is not served; names it.
    """
    made = {}
    for name, raw in options.items():
        value = body.value(options, name, f"options.{name}")
        if value is None or name in _MACHINE or name in _OF_MIROSTAT:
            continue
        if name in SERVED:
            if value not in _NONE.get(name, ()):
                made[SERVED[name]] = raw
        elif name not in _HARMLESS:
            served = ", ".join(sorted(SERVED))
            raise _refused(name, f"is not served; these are: {served}")
        elif value not in _HARMLESS[name]:
            raise _refused(name, f"is served as {_HARMLESS[name][0]} alone")
    return made


def _refused(name: str, why: str) -> Exception:
    param = f"options.{name}"
    return of_code("unsupported_parameter", f"{param} {why}", param)
