"""Phi-3-vision and Phi-3.5-vision. Pure.

Their class is in the model's repository, and its code is never run: the text part is transformers'
own Phi-3, and the vision part is written by `inside/vision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.builder.support.change import Mend, Refusal, rope_type, rotary
from edgekit.builder.support.seeing.family import (
    TABLE,
    Config,
    Looked,
    PictureFamily,
    image_processor,
    other_views,
)

PHI3V, _TEXT = "Phi3VForCausalLM", "Phi3ForCausalLM"
VISION = "model.vision_embed_tokens."
INNER_TABLE = f"{VISION}wte.weight"
"""Where some checkpoints have the embedding."""
_CELLS, _PATCHES = 12, 577  # of a view; patches with the class's
_REMOTE_KEYS = ("auto_map", "embd_layer", "img_processor", "_attn_implementation")
_PHI3_ORIGINAL = 4096  # Phi3Config's
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
# `Phi3VImageProcessor` takes the same where these lack.
_PROCESSOR: dict[str, object] = {
    "image_processor_type": "Phi3VImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_NUMBER, _FEWEST = "num_crops", 1  # of a picture; the second where the first lacks
_USUAL = 4  # that a device takes by itself at most
_INSTEAD = "take microsoft/Phi-3.5-vision-instruct"
_SECTIONS: dict[str, Any] = {
    "vision": {
        "filename": "vision.onnx",
        "config_filename": "processor_config.json",
        "inputs": {"pixel_values": "pixel_values", "image_sizes": "image_sizes"},
        "outputs": {"image_features": "image_features"},
    },
    "embedding": {
        "filename": "embedding.onnx",
        "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
        "outputs": {"inputs_embeds": "inputs_embeds"},
    },
}


def as_text(config: Config) -> Mend:
    """The change after which transformers reads the text part as its own class."""
    patch: dict[str, Any] = {key: None for key in _REMOTE_KEYS if key in config}
    key, rope = rotary(dict(config))
    if rope.get("type") == "su":  # the name that LongRoPE had first
        patch[key] = {"type": "longrope"}
    return Mend(
        {"model_type": "phi3", **patch},
        "the text part is built as transformers' own Phi-3; the repository's code is not run",
    )


def text_config(config: Config) -> dict[str, Any]:
    """config.json of the text part."""
    gone = {key: value for key, value in config.items() if key not in _REMOTE_KEYS}
    return gone | {"architectures": [_TEXT], "model_type": "phi3"}


def text_name(name: str) -> str:
    """A tensor's name in the text part; empty for one of the part that sees."""
    if name == INNER_TABLE:
        return TABLE
    return "" if name.startswith(VISION) else name


def longest_context(config: Config) -> int:
    """Where LongRoPE takes other factors, and all before has to be computed again."""
    key = "original_max_position_embeddings"
    _, rope = rotary(dict(config))
    scaled = rope_type(rope) in ("longrope", "su")
    return int(config.get(key) or rope.get(key) or (_PHI3_ORIGINAL if scaled else 0))


def refusal(config: Config) -> Refusal | None:
    """Why this is another Phi-3-vision than the one that is built, or None."""
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
                    _INSTEAD,
                )
    return None


def _looked(_: Config, height: int, width: int) -> Looked:
    views = height * width + 1
    return Looked(views, views * _CELLS**2 + 1 + (height + 1) * _CELLS)


def _sections(_: Config, files: Mapping[str, Any]) -> dict[str, Any]:
    """As onnxruntime-genai reads them, and with fewer crops than a device would take by itself."""
    told = image_processor(files)
    crops = _USUAL if told is None else told.get(_NUMBER, _FEWEST)
    if crops >= _USUAL:
        return _SECTIONS
    return _SECTIONS | {"vision": _SECTIONS["vision"] | {"image_crops": crops}}


def _words_refusal(_: Config, files: Mapping[str, Any]) -> Refusal | None:
    told = image_processor(files) or {}
    for key, value in _PROCESSOR.items():
        if (given := told.get(key)) is not None and given != value:
            return other_views(f"{key} is {given}, not {value}", _INSTEAD)
    crops = told.get(_NUMBER, _FEWEST)
    if not isinstance(crops, int) or crops < 1:
        return other_views(f"{_NUMBER} is {crops}, and it has to be a number from 1", _INSTEAD)
    return None


PHI3V_FAMILY = PictureFamily(
    name="phi3v",
    architectures=(PHI3V,),
    text=_TEXT,
    as_text=as_text,
    text_config=text_config,
    text_name=text_name,
    longest_context=longest_context,
    refusal=refusal,
    words_refusal=_words_refusal,
    sections=_sections,
    patches=lambda _: _PATCHES,
    looked=_looked,
    tower=f"{VISION}img_processor.",
    drops_last=True,
)
