"""Which LoRA adapters the locked builder makes as PEFT does. Pure.

The builder writes `lora_A` and `lora_B` of a matrix beside it (`make_matmul_lora` of base.py), and
nothing else that an adapter can hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.builder.support.families import FAMILIES
from edgekit.builder.support.limits import Refusal
from edgekit.builder.support.modelconfig import architecture_of
from edgekit.builder.support.weights import QUANTISED_MODULES, Shapes, few, quantised_by

_KEY = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])\.weight$")
_TARGETS = frozenset(
    {
        "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "dense", "out_proj", "fc1", "fc2",
        "gate_proj", "up_proj", "down_proj", "gate_up_proj",
    }
)  # fmt: skip
_MERGE = "merge the adapter into its model with PEFT (merge_and_unload), and build that"

_Pairs = dict[str, dict[str, tuple[int, ...]]]
"""Module -> `A` and `B` -> shape."""

# key of adapter_config.json -> what it is, and the values that the builder makes right
_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "use_dora": ("DoRA, whose magnitudes", lambda value: not value),
    "use_qalora": ("QA-LoRA, whose pooling", lambda value: not value),
    "lora_bias": ("biases of lora_B, which", lambda value: not value),
    "bias": ("trained biases, which", lambda value: value in (None, "none")),
    "modules_to_save": ("whole modules (modules_to_save), which", lambda value: not value),
    "target_parameters": ("LoRA on bare parameters, which", lambda value: not value),
    "trainable_token_indices": ("trained rows of the embedding, which", lambda value: not value),
    "layer_replication": ("repeated layers, which", lambda value: not value),
    "alora_invocation_tokens": ("an activation by tokens, which", lambda value: not value),
    "arrow_config": ("a router between adapters, which", lambda value: not value),
}


def no_adapter_for(config: Mapping[str, Any]) -> Refusal | None:
    """Why the builder makes no adapter of this model right, or None.

    It was compared with PEFT for the families of `families.py`, with LoRA on all their matrices.
    With Qwen3_5ForConditionalGeneration the result was another.
    """
    if quantised_by(config) in QUANTISED_MODULES:
        return Refusal(
            "the model builder puts no adapter on a quantised checkpoint",
            "PEFT does not know the modules that the builder makes of it",
            "give the original model with -m",
        )
    name = architecture_of(config)
    if name in FAMILIES:
        return None
    return Refusal(
        f"the model builder was not shown to make adapters of {name} right",
        "of some such models it loses a part of the adapter without a word",
        _MERGE,
    )


def wrong_adapter(
    settings: Mapping[str, Any], adapter: Shapes, base: Shapes, *, listed: bool
) -> Refusal | None:
    """Why the builder would lose a part of this adapter, or None.

    Args:
        settings: adapter_config.json.
        adapter: the adapter's tensors with their shapes.
        base: those of the model.
        listed: `base` has the tensors as transformers will find them; not so for a GGUF file.
    """
    kind = settings.get("peft_type")
    if kind != "LORA":
        return Refusal(
            f"the model builder makes LoRA adapters, and this one is {kind or 'of no named type'}",
            "peft_type of adapter_config.json",
            _MERGE,
        )
    for key, (what, right) in _SETTINGS.items():
        if not right(settings.get(key)):
            return Refusal(
                f"the adapter has {what} the model builder would leave out",
                f"adapter_config.json sets {key}",
                _MERGE,
            )
    return _wrong_tensors(settings, adapter, base, listed=listed)


def _wrong_tensors(
    settings: Mapping[str, Any], adapter: Shapes, base: Shapes, *, listed: bool
) -> Refusal | None:
    pairs: _Pairs = {}
    for name, shape in sorted(adapter.items()):
        match = _KEY.match(name)
        if match is None or match[1].rpartition(".")[2] not in _TARGETS:
            return Refusal(
                f"the adapter has {name}, which the model builder would leave out",
                "it makes LoRA of the matrices of attention and MLP alone",
                _MERGE,
            )
        pairs.setdefault(match[1], {})[match[2]] = shape
    if not pairs:
        return Refusal(
            "the adapter has no tensors", "adapter_model.safetensors is empty", "save it again"
        )
    if half := [module for module, pair in pairs.items() if len(pair) == 1]:
        return Refusal(
            f"the adapter has one half of {half[0]}",
            f"lora_{'B' if 'A' in pairs[half[0]] else 'A'} is missing",
            "save or download it again",
        )
    return _wrong_rank(settings, pairs) or (
        _misplaced(pairs, base) or _untouched(settings, pairs, base) if listed else None
    )


def _wrong_rank(settings: Mapping[str, Any], pairs: _Pairs) -> Refusal | None:
    rank = settings.get("r")
    for module, pair in pairs.items():
        down, up = pair["A"][:1], pair["B"][1:]
        # rank_pattern gives some modules another one, by patterns that PEFT alone resolves
        if down != up or (down != (rank,) and not settings.get("rank_pattern")):
            return Refusal(
                f"the adapter's tensors of {module} are not those of its adapter_config.json",
                f"the rank is {rank} there, lora_A has {_joined(down)} and lora_B {_joined(up)}",
                "save or download it again",
            )
    return None


def _untouched(settings: Mapping[str, Any], pairs: _Pairs, base: Shapes) -> Refusal | None:
    """A matrix that the adapter names and has no tensors for: PEFT would make some up."""
    targets, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if not isinstance(targets, list) or layers is not None or settings.get("exclude_modules"):
        return None
    ends = tuple(f".{target}.weight" for target in targets)
    there = {module.removeprefix("model.") for module in pairs}
    stems = [name.removesuffix(".weight") for name in base if f".{name}".endswith(ends)]
    lost = [stem for stem in stems if stem.removeprefix("model.") not in there]
    if not lost:
        return None
    return Refusal(
        f"the adapter lacks the tensors of {few(lost)}",
        "target_modules of adapter_config.json names them",
        "save or download it again",
    )


def _joined(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "none"


def _misplaced(pairs: _Pairs, base: Shapes) -> Refusal | None:
    plain = {name.removeprefix("model."): shape for name, shape in base.items()}
    lost = []
    for module, pair in pairs.items():
        stem = module.removeprefix("model.")
        shape = plain.get(f"{stem}.weight")
        if shape is None:
            lost.append(module)
            continue
        rows, columns = pair["B"][:1], pair["A"][1:]
        if (*rows, *columns) != shape:
            return Refusal(
                f"the adapter is not one of this model: {module} has another shape",
                f"the adapter is made for {_joined((*rows, *columns))}, "
                f"the model's matrix is {_joined(shape)}",
                "give the model that the adapter was trained on "
                "(base_model_name_or_path of adapter_config.json) with -m",
            )
    if not lost:
        return None
    return Refusal(
        f"the model has no place for {len(lost)} of the adapter's matrices: {few(lost)}",
        "the model has no such modules",
        "give the model that the adapter was trained on "
        "(base_model_name_or_path of adapter_config.json) with -m",
    )
