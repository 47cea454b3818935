"""Models that take pictures, of which edgekit builds every part: what all families have in common.

Pure. `seeing` has the families, a file for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from edgekit.builder.spec import VisionPrecision
from edgekit.builder.support.change import Mend, Refusal
from edgekit.builder.support.modelconfig import architecture_of
from edgekit.builder.support.seeing.family import PICTURES, TOKENS, WHOLE, PictureFamily
from edgekit.builder.support.seeing.phi3v import PHI3V_FAMILY
from edgekit.builder.support.seeing.smolvlm import SMOLVLM_FAMILY

VISION_PRECISIONS: tuple[VisionPrecision, ...] = get_args(VisionPrecision)
FAMILIES: dict[str, PictureFamily] = {
    architecture: family
    for family in (PHI3V_FAMILY, SMOLVLM_FAMILY)
    for architecture in family.architectures
}
"""Architecture -> family."""
_TEXT_PRECISIONS = ("int4", "int8", "fp32")  # the other two graphs are in float32 outside
_T = TypeVar("_T")


def family_of(config: Mapping[str, Any]) -> PictureFamily | None:
    """The family of this config.json; None where its build takes text alone."""
    return FAMILIES.get(architecture_of(config))


def takes_pictures(config: Mapping[str, Any]) -> bool:
    """Whether the build of this config.json makes a model that takes pictures."""
    return family_of(config) is not None


def text_name(name: str) -> str:
    """The architecture of the text part."""
    family = FAMILIES.get(name)
    return name if family is None else family.text


def as_text(config: Mapping[str, Any]) -> Mend | None:
    """The change after which transformers reads the text part as its own class."""
    family = family_of(config)
    return None if family is None else family.as_text(config)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the text part; that of a model without pictures as it is."""
    family = family_of(config)
    return config if family is None else family.text_config(config)


def text_tensors(config: Mapping[str, Any], tensors: Mapping[str, _T]) -> dict[str, _T]:
    """The tensors of the text part by their names there; all of a model without pictures."""
    family = family_of(config)
    if family is None:
        return dict(tensors)
    named = [(family.text_name(name), name) for name in tensors]
    # a tensor with its own name comes before another that may stand for it
    named.sort(key=lambda pair: pair[0] == pair[1])
    return {text: tensors[name] for text, name in named if text}


def longest_context(config: Mapping[str, Any]) -> int:
    """The context of a model that takes pictures, in tokens; 0 for the model's own."""
    family = family_of(config)
    return 0 if family is None else family.longest_context(config)


PROCESSOR_FILES = (PICTURES, WHOLE, TOKENS, "tokenizer.json")


def vision_precision(
    config: Mapping[str, Any], asked: str | None, precision: str
) -> VisionPrecision | None:
    """The precision of the vision part; None for a model without pictures.

    Args:
        asked: by the request; None takes INT8 beside a quantised text part, else FP32.
        precision: of the text part.
    """
    if not takes_pictures(config):
        return None
    if asked is None:
        return "fp32" if precision == "fp32" else "int8"
    return "fp32" if asked == "fp32" else "int8"


def pictures_refusal(
    config: Mapping[str, Any],
    asked: str | None,
    precision: str,
    provider: str,
    context: int,
    given: Mapping[str, str],
) -> Refusal | None:
    """Why the request does not fit this model's pictures, or None.

    Args:
        asked: the precision of the vision part that the request names, or None.
        precision, provider: the builder's `-p` and `-e`.
        context: cap for the default length, in tokens.
        given: the builder's options of the request.
    """
    if asked is not None and asked not in VISION_PRECISIONS:
        why = "it has to be fp32 or int8"
        if asked == "int4":
            why = (
                "features in INT4 were 27 % off (cosine 0.967) on a tower of the real size, "
                "against 2 % in INT8, and no real weights have shown what that costs"
            )
        return Refusal(
            f"the vision part is not built in {asked}", why, "use --vision-precision int8 or fp32"
        )
    family = family_of(config)
    if family is None:
        if asked is None:
            return None
        return Refusal(
            "--vision-precision goes with a model that takes pictures",
            f"edgekit builds the text of {architecture_of(config) or 'this model'} alone",
            "leave it out",
        )
    return (
        _target(precision, provider)
        or _quantised(config)
        or _context(family.longest_context(config), context)
        or _options(given)
        or family.refusal(config)
    )


def _target(precision: str, provider: str) -> Refusal | None:
    if provider != "cpu":
        return Refusal(
            f"a model that takes pictures is not built for {provider}",
            "its vision part was compared with full precision on a CPU alone",
            "build it with -e cpu",
        )
    if precision not in _TEXT_PRECISIONS:
        return Refusal(
            f"a model that takes pictures is not built in {precision}",
            "its vision part speaks float32 to the text part",
            f"use one of {', '.join(_TEXT_PRECISIONS)} with -p",
        )
    return None


def _quantised(config: Mapping[str, Any]) -> Refusal | None:
    told = config.get("quantization_config")
    if not told:
        return None
    method = told.get("quant_method") if isinstance(told, dict) else told
    return Refusal(
        "a model that takes pictures is not built of a checkpoint that is quantised already",
        f"config.json says that its weights are quantised with {method or 'no named method'}, and "
        "its text part is read without that",
        "take the original model, before it was quantised",
    )


def _context(longest: int, context: int) -> Refusal | None:
    if not longest or context <= longest:
        return None
    return Refusal(
        f"a model that takes pictures is built for {longest} tokens at most, not {context}",
        "beyond them LongRoPE takes other factors, and a conversation with pictures "
        "would have to be computed again from its start",
        f"build it with --context {longest}",
    )


def _options(given: Mapping[str, str]) -> Refusal | None:
    if "adapter_path" in given:
        return Refusal(
            "an adapter is not merged into a model that takes pictures",
            "what it changes of the vision part would be lost",
            "merge the adapter with peft (merge_and_unload), and build the folder that this saves",
        )
    if given.get("filename", "model.onnx") in ("vision.onnx", "embedding.onnx"):
        return Refusal(
            f"the text part cannot be called {given['filename']}",
            "another part of the model has that name",
            "leave the extra option filename out",
        )
    for key, only in (("exclude_embeds", "true"), ("exclude_lm_head", "false")):
        if given.get(key, only) != only:
            return Refusal(
                f"a model that takes pictures is not built with {key}={given[key]}",
                "its text part is fed by the embedding graph, and answers by its head",
                f"leave the extra option {key} out",
            )
    return None
