"""Models that take pictures, of which edgekit builds every part: Phi-3-vision and Phi-3.5-vision.

Pure. Their class is in the model's repository, and its code is never run: the text part is
transformers' own Phi-3, and the vision part is written by `inside/vision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from edgekit.builder.spec import VisionPrecision
from edgekit.builder.support.change import Mend, Refusal, rope_type, rotary
from edgekit.builder.support.modelconfig import architecture_of

VISION_PRECISIONS: tuple[VisionPrecision, ...] = get_args(VisionPrecision)
PHI3V, _TEXT = "Phi3VForCausalLM", "Phi3ForCausalLM"
VISION = "model.vision_embed_tokens."
TABLE, INNER_TABLE = "model.embed_tokens.weight", f"{VISION}wte.weight"
"""The embedding, and where some checkpoints have it instead."""
_REMOTE_KEYS = ("auto_map", "embd_layer", "img_processor", "_attn_implementation")
_PHI3_ORIGINAL = 4096  # Phi3Config's
_TEXT_PRECISIONS = ("int4", "int8", "fp32")  # the other two graphs are in float32 outside
_EXPECTED: dict[str, dict[str, object]] = {
    "img_processor": {
        "name": "clip_vision_model",
        "model_name": "openai/clip-vit-large-patch14-336",
        "num_img_tokens": 144,
        "layer_idx": -2,
        "type_feature": "patch",
    },
    "embd_layer": {
        "embedding_cls": "image",
        "projection_cls": "mlp",
        "hd_transform_order": "sub_glb",
        "use_hd_transform": True,
        "with_learnable_separator": True,
    },
}
"""Section of config.json -> settings that `inside/vision` is written for."""
_MAY_MISS = frozenset({"model_name", "layer_idx", "type_feature"})
"""Where these lack, the repository's code takes the same; where others lack, it takes another."""
_T = TypeVar("_T")


def takes_pictures(config: Mapping[str, Any]) -> bool:
    """Whether the build of this config.json makes a model that takes pictures."""
    return architecture_of(config) == PHI3V


def text_name(name: str) -> str:
    """The architecture of the text part."""
    return _TEXT if name == PHI3V else name


def as_text(config: Mapping[str, Any]) -> Mend | None:
    """The change after which transformers reads the text part as its own class."""
    if not takes_pictures(config):
        return None
    patch: dict[str, Any] = {key: None for key in _REMOTE_KEYS if key in config}
    key, rope = rotary(dict(config))
    if rope.get("type") == "su":  # the name that LongRoPE had first
        patch[key] = {"type": "longrope"}
    return Mend(
        {"model_type": "phi3", **patch},
        "the text part is built as transformers' own Phi-3; the repository's code is not run",
    )


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the text part; that of a model without pictures as it is."""
    if not takes_pictures(config):
        return config
    gone = {key: value for key, value in config.items() if key not in _REMOTE_KEYS}
    return gone | {"architectures": [_TEXT], "model_type": "phi3"}


def text_tensors(config: Mapping[str, Any], tensors: Mapping[str, _T]) -> dict[str, _T]:
    """The tensors of the text part; those of a model without pictures as they are."""
    if not takes_pictures(config):
        return dict(tensors)
    found = {name: each for name, each in tensors.items() if not name.startswith(VISION)}
    if TABLE not in found and INNER_TABLE in tensors:
        found[TABLE] = tensors[INNER_TABLE]
    return found


def longest_context(config: Mapping[str, Any]) -> int:
    """The context of a model that takes pictures, in tokens; 0 for the model's own.

    Beyond it LongRoPE takes other factors, and all before has to be computed again, pictures too.
    """
    key = "original_max_position_embeddings"
    _, rope = rotary(dict(config))
    scaled = rope_type(rope) in ("longrope", "su")
    return int(config.get(key) or rope.get(key) or (_PHI3_ORIGINAL if scaled else 0))


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
    if not takes_pictures(config):
        if asked is None:
            return None
        return Refusal(
            "--vision-precision goes with a model that takes pictures",
            f"edgekit builds the text of {architecture_of(config) or 'this model'} alone",
            "leave it out",
        )
    return (
        _target(precision, provider)
        or _context(config, context)
        or _options(given)
        or _settings(config)
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


def _context(config: Mapping[str, Any], context: int) -> Refusal | None:
    longest = longest_context(config)
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


def _settings(config: Mapping[str, Any]) -> Refusal | None:
    for section, expected in _EXPECTED.items():
        told = config.get(section)
        told = told if isinstance(told, dict) else {}
        for key, value in expected.items():
            if key not in told and key in _MAY_MISS:
                continue
            if told.get(key) != value:
                given = repr(told[key]) if key in told else "missing"
                return Refusal(
                    f"this Phi-3-vision's {section} is another than the one that is built",
                    f"{key} is {given}, not {value!r}",
                    "take microsoft/Phi-3.5-vision-instruct",
                )
    return None
