"""SmolVLM, SmolVLM2 and Idefics3: SigLIP sees, a Llama reads. Pure.

transformers has both classes; they differ in nothing that a picture shows. `inside/vision/smolvlm`
writes the vision part. The text part is built as transformers' own Llama, because the model builder
knows neither name. Videos are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import msgspec

from edgekit.builder.support.change import Mend, Refusal, replacing
from edgekit.builder.support.seeing.family import (
    TOKENS,
    WHOLE,
    Config,
    Looked,
    PictureFamily,
    image_processor,
    other_views,
)
from edgekit.core.pictures import MAX_CROPS

SMOLVLM = ("SmolVLMForConditionalGeneration", "Idefics3ForConditionalGeneration")
SETTINGS = "edgekit_pictures"
"""Key of the text part's config.json: what `inside/vision/smolvlm.py` has to know."""
_TEXT = "LlamaForCausalLM"
_TEXT_NAMES, _HEAD = "model.text_model.", "lm_head.weight"
# Where both parts of config.json have one, transformers generates with the whole's
_ENDS = ("bos_token_id", "eos_token_id")
_PAD = ("pad_token_id",)  # and has the text part's here
_PROCESSORS = ("SmolVLMImageProcessor", "Idefics3ImageProcessor")  # the same, under two names
_LANCZOS = 1
_LONGEST = 4096  # pixels of a picture's longer side, before it is cut into crops
_VIEWS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "do_image_splitting": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": _LANCZOS,
}
"""What the device does, and transformers where a setting lacks."""
_MISSING = {"max_image_size": {"longest_edge": 364}, "size": {"longest_edge": 4 * 364}}
"""What transformers takes where these lack."""
_NAMED = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}
"""Tokens that a tokenizer may give other texts, by their names in tokenizer_config.json."""
_WORDS = ("<image>", "<fake_token_around_image>")
# `<image>` itself becomes rows of the picture, and is never looked up
_OF_PICTURES = re.compile(r"<fake_token_around_image>|<global-img>|<row_[1-4]_col_[1-4]>")
_INSTEAD = "take HuggingFaceTB/SmolVLM2-256M-Video-Instruct, or SmolVLM-256M-Instruct"


class _Sight(msgspec.Struct, frozen=True):
    """`vision_config` with the defaults of transformers' SmolVLMVisionConfig."""

    hidden_size: int = 1152
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches on a side of a view."""
        return self.image_size // max(1, self.patch_size)


def _sight(config: Config) -> _Sight | None:
    """The vision part's settings; None where they have other types."""
    told = config.get("vision_config")
    if told is not None and not isinstance(told, dict):
        return None
    given = {key: value for key, value in (told or {}).items() if value is not None}
    try:
        return msgspec.convert(given, _Sight)
    except msgspec.ValidationError:
        return None


def _known(config: Config) -> _Sight:
    sight = _sight(config)
    assert sight is not None, "refused before"
    return sight


def _scale(config: Config) -> int:
    given = config.get("scale_factor", 2)  # transformers' default
    return given if isinstance(given, int) and given > 0 else 0


def _rows(config: Config) -> int:
    """Rows of a view."""
    return (_known(config).grid // _scale(config)) ** 2


def text_config(config: Config) -> dict[str, Any]:
    """config.json of the text part, with the settings of the part that sees below `SETTINGS`."""
    inner = config.get("text_config") or {}
    pad, ends = (
        {key: config[key] for key in keys if config.get(key) is not None} for keys in (_PAD, _ENDS)
    )
    sight = _sight(config) or _Sight()
    told = {
        "type": "smolvlm",
        "architecture": SMOLVLM[0],
        "scale_factor": _scale(config),
        **msgspec.structs.asdict(sight),
    }
    return {
        **pad,
        **{key: value for key, value in inner.items() if value is not None},
        **ends,
        "architectures": [_TEXT],
        "model_type": "llama",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings")),
        SETTINGS: told,
    }


def as_text(config: Config) -> Mend:
    """The change after which transformers reads the text part as a Llama."""
    why = "the text part is built as transformers' own Llama"
    return Mend(replacing(config, text_config(config)), why)


def text_name(name: str) -> str:
    """A tensor's name in the text part; empty for one of the part that sees."""
    if name.startswith(_TEXT_NAMES):
        return f"model.{name.removeprefix(_TEXT_NAMES)}"
    return name if name == _HEAD else ""


def refusal(config: Config) -> Refusal | None:
    """Why this model's part that sees is another than the one that is built, or None."""
    text, sight, scale = config.get("text_config"), _sight(config), _scale(config)
    kind = text.get("model_type", "llama") if isinstance(text, dict) else "missing"
    why = ""
    if kind != "llama":
        why = f"its text part is {kind}, not a Llama"
    elif sight is None:
        why = "vision_config has a setting of another type than transformers'"
    elif sight.hidden_act != "gelu_pytorch_tanh":
        why = f"hidden_act is {sight.hidden_act}, not gelu_pytorch_tanh"
    elif sight.num_channels != 3:
        why = f"num_channels is {sight.num_channels}, not 3"
    elif min(sight.patch_size, sight.num_attention_heads, scale, sight.grid) < 1:
        why = "a size of its vision part is 0"
    elif sight.grid % scale:
        why = f"{sight.grid} patches on a side are no multiple of scale_factor {scale}"
    elif sight.hidden_size % sight.num_attention_heads:
        why = f"{sight.hidden_size} are not divided by {sight.num_attention_heads} heads"
    elif sight.image_size * isqrt(MAX_CROPS) > _LONGEST:
        why = f"{MAX_CROPS} crops of image_size {sight.image_size} have sides above {_LONGEST}"
    if not why:
        return None
    return Refusal(
        "this model's part that sees is another than the one that is built", why, _INSTEAD
    )


def words_refusal(config: Config, files: Mapping[str, Any]) -> Refusal | None:
    """Why its processor does something else than the device's, or None.

    Args:
        files: the objects of the processor's files and of `tokenizer.json`, as far as they are
            there.
    """
    told = image_processor(files)
    why = "" if told is None else _other_views(told, _known(config).image_size)
    rows = files.get(WHOLE, {}).get("image_seq_len")
    if not why and rows is not None and rows != _rows(config):
        why = f"image_seq_len is {rows}; the model makes {_rows(config)}"
    for key, word in _NAMED.items():
        if not why and (given := _named(files.get(TOKENS, {}), key)) not in (None, word):
            why = f"{key} is {given}, not {word}"
    if why:
        return other_views(why, _INSTEAD)
    return _lost_words(config, files["tokenizer.json"]) if "tokenizer.json" in files else None


def _lost_words(config: Config, tokenizer: Mapping[str, Any]) -> Refusal | None:
    """Why what stands for a picture in a prompt is lost, or None."""
    added = {each.get("content"): each.get("id") for each in tokenizer.get("added_tokens") or ()}
    if lost := [word for word in _WORDS if word not in added]:
        return Refusal(
            "its tokenizer has no token for the place of a picture",
            f"tokenizer.json lacks {lost[0]}",
            _INSTEAD,
        )
    if (place := config.get("image_token_id")) is not None and place != added["<image>"]:
        return Refusal(
            "its tokenizer is another model's",
            f"image_token_id of config.json is {place}, and <image> of tokenizer.json "
            f"{added['<image>']}: transformers finds no place for a picture",
            "take tokenizer and weights of one model",
        )
    if _treats_a_beginning(tokenizer.get("pre_tokenizer")):
        return other_views(
            "its tokenizer reads the beginning of a text otherwise than what stands behind a token "
            "(Metaspace with prepend_scheme first), and a device reads each piece beside a picture "
            "as a text",
            _INSTEAD,
        )
    rows = (config.get("text_config") or {}).get("vocab_size")
    told = sorted(word for word in added if word and _OF_PICTURES.fullmatch(word))
    beyond = [word for word in told if isinstance(rows, int) and not _is_below(added[word], rows)]
    if beyond:
        return Refusal(
            "its tokenizer makes ids of a picture's place that the model has no row for",
            f"{beyond[0]} has the id {added[beyond[0]]}, and vocab_size of text_config is {rows}",
            "take tokenizer and weights of one model",
        )
    return None


def _treats_a_beginning(told: object) -> bool:
    """Whether a pre-tokenizer of tokenizer.json, or one within it, changes a text's beginning."""
    if not isinstance(told, dict):
        return False
    if told.get("type") == "Metaspace" and told.get("prepend_scheme") == "first":
        return True
    return any(map(_treats_a_beginning, told.get("pretokenizers") or ()))


def _is_below(number: object, rows: int) -> bool:
    return isinstance(number, int) and number < rows


def _other_views(told: Mapping[str, Any], side: int) -> str:
    """Which setting of the image processor makes other views of a picture; empty if none does."""
    kind = str(told.get("image_processor_type") or _PROCESSORS[0])
    if kind.removesuffix("Fast").removesuffix("Pil") not in _PROCESSORS:
        return f"image_processor_type is {kind}, not {_PROCESSORS[0]}"
    wanted = {**_VIEWS, "max_image_size": {"longest_edge": side}}
    for key, value in wanted.items():
        given = told.get(key)
        given = _MISSING.get(key, value) if given is None else given
        if given != value:
            return f"{key} is {given}, not {value}"
    # how many crops a picture has at most is the device's setting; scaling twice would blur it
    size = told.get("size") or _MISSING["size"]
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    if not isinstance(longest, int) or longest < side or longest % side:
        return f"size is {size}; its longest_edge has to be a multiple of {side}"
    return ""


def _named(told: Mapping[str, Any], key: str) -> object:
    """The text of a token that a tokenizer has a name for; None if it has none."""
    given = told.get(key)
    for group in ("extra_special_tokens", "model_specific_special_tokens"):
        if given is None and isinstance(told.get(group), dict):
            given = told[group].get(key)
    return given.get("content") if isinstance(given, dict) else given


def sections(config: Config, files: Mapping[str, Any]) -> dict[str, Any]:
    """What genai_config.json says of the graphs; the agent's own settings have HF's names.

    Where the processor cuts a picture into fewer crops than any device may, it says into how many.
    """
    side = _known(config).image_size
    told = image_processor(files)
    size = None if told is None else told.get("size") or _MISSING["size"]
    crops = MAX_CROPS if size is None else (size["longest_edge"] // side) ** 2
    return {
        "type": "smolvlm",
        "vision": {
            "filename": "vision.onnx",
            "inputs": {"pixel_values": "pixel_values"},
            "outputs": {"image_features": "image_features"},
            "image_size": side,
            "image_seq_len": _rows(config),
            **({"image_crops": crops} if crops < MAX_CROPS else {}),
        },
        "embedding": {
            "filename": "embedding.onnx",
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
    }


def _looked(config: Config, height: int, width: int) -> Looked:
    """Texts count as tokens: two before each view, one behind a line of them, one at the end."""
    alone = height * width == 1
    views, ends = (1, 0) if alone else (height * width + 1, height)
    return Looked(views, views * (_rows(config) + 2) + ends + 1)


SMOLVLM_FAMILY = PictureFamily(
    name="smolvlm",
    architectures=SMOLVLM,
    text=_TEXT,
    as_text=as_text,
    text_config=text_config,
    text_name=text_name,
    longest_context=lambda _: 0,
    refusal=refusal,
    words_refusal=words_refusal,
    sections=sections,
    patches=lambda config: _known(config).grid ** 2,
    looked=_looked,
    tower="model.vision_model.",
    renamed=True,
    template_of_processor=True,
)
