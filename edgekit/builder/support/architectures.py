"""The architectures that the locked builder can build, by `architectures` of config.json. Pure.

The names are those that `create_model` of onnxruntime-genai 0.18.0 (`models/builder.py`) compares
with; `tests/system/test_plan.py` checks them against the installed builder. Those of a picture
family may be unknown to it: what it is given is the text part (`support/seeing`).
"""

from __future__ import annotations

import difflib
from typing import Any, Literal

import msgspec

from edgekit.builder.support.limits import Refusal, adapter_lost, beyond, known_defect
from edgekit.builder.support.mend import mended, mends, sliding_window
from edgekit.builder.support.modelconfig import architecture_of
from edgekit.builder.support.packed import unreadable_checkpoint
from edgekit.builder.support.pictures import FAMILIES, text_name

Kind = Literal["text", "text part", "pictures", "speech"]


class Architecture(msgspec.Struct, frozen=True):
    """An architecture that the builder knows.

    Attributes:
        name: as in `architectures[0]`.
        kind: a language model, the language part of a multimodal model, all of one that takes
            pictures, or speech recognition.
        remote: transformers has no code for it; the model's repository brings its own.
        cuda_only: the builder makes it for CUDA, whichever provider is requested.
    """

    name: str
    kind: Kind = "text"
    remote: bool = False
    cuda_only: bool = False


class ArchitectureSupport(msgspec.Struct, frozen=True):
    """Whether an architecture can be built.

    Attributes:
        architecture: None where the builder does not know it.
        refusal: what cannot be built, why, and what to do instead; None where it can be built.
        notes: remarks for the user, one line each.
        window: the sliding window of the layers that have one, in tokens; else 0.
    """

    architecture: Architecture | None
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()
    window: int = 0


_TEXT = (
    "Ernie4_5ForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GemmaForCausalLM",
    "GptOssForCausalLM", "GraniteForCausalLM", "GraniteMoeHybridForCausalLM",
    "HunYuanDenseV1ForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "LlamaForCausalLM",
    "MistralForCausalLM", "NemotronForCausalLM", "OlmoForCausalLM", "Phi3ForCausalLM",
    "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "SmolLM3ForCausalLM",
)  # fmt: skip
_TEXT_PARTS = (
    "Gemma3ForConditionalGeneration", "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration", "Lfm2AudioForConditionalGeneration",
    "Lfm2VlForConditionalGeneration", "Mistral3ForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
)  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {
    each.name: each
    for each in (
        *(Architecture(name) for name in _TEXT),
        *(Architecture(name, "text part") for name in _TEXT_PARTS),
        Architecture("ChatGLMForConditionalGeneration", remote=True),
        Architecture("ChatGLMModel", remote=True),
        Architecture("InternLM2ForCausalLM", remote=True),
        Architecture("Phi3SmallForCausalLM", remote=True),
        *(Architecture(name, "pictures") for name in FAMILIES),
        Architecture("Phi4MMForCausalLM", "text part", remote=True),
        Architecture("VideoChatFlashQwenForCausalLM", "text part", remote=True),
        Architecture("PhiMoEForCausalLM", cuda_only=True),
        Architecture("WhisperForConditionalGeneration", "speech"),
    )
}
"""Name -> architecture, for all that the locked builder knows."""

# Unsupported architecture -> the closest model that can be built instead.
_INSTEAD = {
    "PhiMoEForCausalLM": "microsoft/Phi-3.5-mini-instruct (Phi3ForCausalLM)",
    "MixtralForCausalLM": "a dense Mistral (MistralForCausalLM)",
    "Qwen2MoeForCausalLM": "a dense Qwen2.5 (Qwen2ForCausalLM)",
    "Qwen3MoeForCausalLM": "a dense Qwen3, up to 32B (Qwen3ForCausalLM)",
    "Qwen3NextForCausalLM": "a dense Qwen3 (Qwen3ForCausalLM)",
    "Qwen2VLForConditionalGeneration": "a Qwen2.5-VL (Qwen2_5_VLForConditionalGeneration)",
    "Olmo2ForCausalLM": "a dense Qwen3 (Qwen3ForCausalLM)",
    "Olmo3ForCausalLM": "a dense Qwen3 (Qwen3ForCausalLM)",
    "OlmoeForCausalLM": "a small Qwen3 (Qwen3ForCausalLM)",
    "Gemma3nForConditionalGeneration": "google/gemma-3-1b-it (Gemma3ForCausalLM)",
    "GraniteMoeForCausalLM": "a dense Granite (GraniteForCausalLM)",
    "DeepseekV3ForCausalLM": "a distilled DeepSeek-R1 (Qwen2ForCausalLM or LlamaForCausalLM)",
    "DeepseekV2ForCausalLM": "a distilled DeepSeek-R1 (Qwen2ForCausalLM or LlamaForCausalLM)",
    "Llama4ForConditionalGeneration": "a Llama 3 (LlamaForCausalLM)",
    "MllamaForConditionalGeneration": "a Llama 3.2 without vision (LlamaForCausalLM)",
    "Phi4MultimodalForCausalLM": "microsoft/Phi-4-mini-instruct (Phi3ForCausalLM)",
}

_NO_CLASS = "Lfm2AudioForConditionalGeneration"  # transformers 5.23 cannot load it for the gate
_USUAL = {"num_hidden_layers": 32}
"""What decides whether a usual model of an architecture is refused, as every SmolLM3 is."""


def support_of(
    config: dict[str, Any],
    precision: str,
    provider: str,
    *,
    trust_remote_code: bool = False,
    context: int = 0,
    adapter: bool = False,
) -> ArchitectureSupport:
    """Whether the builder can build the model of a config.json.

    Args:
        config: a configuration that passed `check_config`.
        precision, provider: the builder's `-p` and `-e`.
        trust_remote_code: code from the model's repository may run.
        context: the longest context that is served, in tokens; 0 is the model's own.
        adapter: an adapter is to be merged in.
    """
    name = architecture_of(config)
    known = ARCHITECTURES.get(name)
    if known is None:
        return ArchitectureSupport(None, _unknown(name, config))
    changes = mends(name, config)
    refusal = (
        _wrong_kind(known, provider)
        or _remote_code(known, trust_remote_code)
        or unreadable_checkpoint(name, config, provider)
        or known_defect(text_name(name), mended(config, changes), precision, provider)
        or beyond(name, config, context)
        or (adapter_lost(name) if adapter else None)
    )
    part = f"only the language part of {name} is built; it takes text, not pictures or sound"
    notes = ((part,) if known.kind == "text part" else ()) + tuple(each.why for each in changes)
    return ArchitectureSupport(known, refusal, notes, sliding_window(name, config))


def alternative(name: str) -> str:
    """A similar model that can be built instead; an empty string where there is none."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    able = [
        each
        for each, known in ARCHITECTURES.items()
        if not (known.cuda_only or known.remote or known.kind == "speech")
        and known_defect(each, _USUAL, "int4", "cpu") is None
        and each != _NO_CLASS
    ]
    close = difflib.get_close_matches(name, able, n=1, cutoff=0.85)
    return f"a model of {close[0]}" if close else ""


def _unknown(name: str, config: dict[str, Any]) -> Refusal:
    if not name:
        return Refusal(
            "config.json names no architecture",
            "it has no `architectures`",
            "take the config.json of the original model",
        )
    instead = alternative(name)
    return Refusal(
        f"the model builder does not know {name}",
        f"model type {config['model_type']}" if config.get("model_type") else "",
        f"take {instead} instead"
        if instead
        else "take a Llama, Mistral, Phi, Qwen, Gemma, Granite or SmolLM",
    )


def _wrong_kind(known: Architecture, provider: str) -> Refusal | None:
    if known.kind == "speech":
        return Refusal(
            f"{known.name} turns speech into text; edgekit serves language models",
            "it has an encoder and takes sound",
            "run the onnxruntime-genai model builder by itself",
        )
    if known.cuda_only and provider != "cuda":
        return Refusal(
            f"the model builder makes {known.name} for CUDA alone",
            f"it sets -e cuda -p int4 by itself, and the result does not run on {provider}",
            f"take {alternative(known.name)} instead, or build with -e cuda -p int4",
        )
    return None


def _remote_code(known: Architecture, trusted: bool) -> Refusal | None:
    if not known.remote or trusted:
        return None
    return Refusal(
        f"{known.name} needs code out of the model's repository",
        "transformers has no code for it",
        "read that code, then add --trust-remote-code; or take a model that transformers knows",
    )
