"""What a Phi-3-vision's config.json becomes for the builder, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.builder.make.told import as_told
from edgekit.builder.source.configfile import read_template
from edgekit.builder.source.words import processor_refusal
from edgekit.builder.spec import BuildSpec, Source
from edgekit.builder.support.mend import mended, mends
from edgekit.builder.support.pictures import (
    as_text,
    family_of,
    longest_context,
    pictures_refusal,
    takes_pictures,
    text_config,
    text_tensors,
    vision_precision,
)
from edgekit.cli.model import buildfile

# as microsoft/Phi-3.5-vision-instruct has it, but for the factors
PHI3V: dict[str, Any] = {
    "_name_or_path": "Phi-3.5-vision-instruct",
    "architectures": ["Phi3VForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    },
    "embd_layer": {
        "embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
        "use_hd_transform": True, "with_learnable_separator": True,
    },
    "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "vocab_size": 32064,
    "img_processor": {
        "image_dim_out": 1024, "model_name": "openai/clip-vit-large-patch14-336",
        "name": "clip_vision_model", "num_img_tokens": 144,
    },
    "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    "model_type": "phi3_v",
    "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "su"},
    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
    "_attn_implementation": "flash_attention_2",
}  # fmt: skip
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}


def refusal(config: dict[str, Any], asked: str | None = None, **changes: Any) -> str:
    how: dict[str, Any] = {"precision": "int4", "provider": "cpu", "context": 4096, "given": {}}
    how |= changes
    found = pictures_refusal(config, asked, **how)
    return f"{found.what} | {found.why}" if found else ""


def test_the_builder_is_told_the_text_part_alone() -> None:
    told = mended(PHI3V, mends("Phi3VForCausalLM", PHI3V))
    assert told["model_type"] == "phi3"
    assert told["architectures"] == ["Phi3VForCausalLM"]  # the builder's own name for its text part
    assert told["rope_scaling"]["type"] == "longrope"
    assert told["rope_scaling"]["long_factor"] == [1.5] * 48
    assert not {"auto_map", "img_processor", "embd_layer", "_attn_implementation"} & told.keys()
    assert text_config(PHI3V)["architectures"] == ["Phi3ForCausalLM"]
    assert text_config(LLAMA) is LLAMA


def test_the_embedding_is_found_where_it_lies() -> None:
    inner = {"model.vision_embed_tokens.wte.weight": 1, "model.vision_embed_tokens.sub_GN": 2}
    assert text_tensors(PHI3V, inner) == {"model.embed_tokens.weight": 1}
    both = inner | {"model.embed_tokens.weight": 3, "lm_head.weight": 4}
    wanted = {"model.embed_tokens.weight": 3, "lm_head.weight": 4}
    assert text_tensors(PHI3V, both) == wanted
    assert text_tensors(LLAMA, inner) == inner


@pytest.mark.parametrize(
    ("asked", "text", "wanted"),
    [
        (None, "fp32", "fp32"), (None, "int4", "int8"), (None, "int8", "int8"),
        ("fp32", "int4", "fp32"), ("int8", "fp32", "int8"),
    ],
)  # fmt: skip
def test_the_precision_of_the_vision_part(asked: str | None, text: str, wanted: str) -> None:
    assert vision_precision(PHI3V, asked, text) == wanted
    assert vision_precision(LLAMA, asked, text) is None


def test_what_can_be_built_is_not_refused() -> None:
    assert takes_pictures(PHI3V)
    assert longest_context(PHI3V) == 4096
    for asked in (None, "fp32", "int8"):
        for precision in ("int4", "int8", "fp32"):
            assert refusal(PHI3V, asked, precision=precision) == ""
    assert refusal(LLAMA) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "not built in fp16"),
        ({"provider": "webgpu"}, "not built for webgpu"),
        ({"context": 8192}, "4096 tokens at most, not 8192"),
        ({"given": {"adapter_path": "x"}}, "an adapter is not merged"),
        ({"given": {"filename": "vision.onnx"}}, "cannot be called vision.onnx"),
        ({"given": {"exclude_embeds": "false"}}, "exclude_embeds=false"),
    ],
)
def test_what_would_come_out_wrong_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(PHI3V, **changes)


@pytest.mark.parametrize("method", ["awq", "gptq", "quark", None])
def test_a_quantised_checkpoint_is_refused_before_anything_is_built(method: str | None) -> None:
    """The text part is read without quantization_config: it lacked every weight, or failed late."""
    for config in (PHI3V, SMOLVLM):
        said = refusal(config | {"quantization_config": {"quant_method": method}})
        assert "not built of a checkpoint that is quantised already" in said
        assert refusal(config | {"quantization_config": None}) == ""


def test_int4_vision_is_refused_with_its_reason() -> None:
    assert "not built in int4 | features in INT4 were 27 % off" in refusal(PHI3V, "int4")
    assert "goes with a model that takes pictures" in refusal(LLAMA, "int8")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("img_processor", "name", "siglip_vision_model"),
        ("img_processor", "layer_idx", -1),
        ("img_processor", "type_feature", "cls_patch"),
        ("embd_layer", "projection_cls", "linear"),
        ("embd_layer", "with_learnable_separator", False),
    ],
)
def test_another_vision_part_is_refused_by_its_setting(
    section: str, key: str, value: object
) -> None:
    other = PHI3V | {section: PHI3V[section] | {key: value}}
    assert f"{key} is {value!r}" in refusal(other)


@pytest.mark.parametrize("key", list(PHI3V["embd_layer"]))
def test_a_setting_that_lacks_is_not_the_one_that_is_built(key: str) -> None:
    """The repository's code takes `glb_sub`, no separators, a linear projection there."""
    less = {name: value for name, value in PHI3V["embd_layer"].items() if name != key}
    assert f"{key} is missing" in refusal(PHI3V | {"embd_layer": less})
    assert "is missing" in refusal(PHI3V | {"embd_layer": "default"})


def words(config: dict[str, Any], **files: dict[str, Any]) -> str:
    """Why the processor's files are refused; each file by its name without `.json`."""
    family = family_of(config)
    assert family is not None
    told = {f"{name}.json": content for name, content in files.items()}
    found = family.words_refusal(config, told)
    return found.why if found else ""


def test_phi_3_visions_processor_is_the_published_one() -> None:
    published = {
        "do_convert_rgb": True, "image_processor_type": "Phi3VImageProcessor", "num_crops": 16,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "num_img_tokens": 144,
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    assert words(PHI3V, preprocessor_config=published) == words(PHI3V) == ""
    for key, value in (
        ("image_mean", [0.5, 0.5, 0.5]), ("image_std", [0.5, 0.5, 0.5]),
        ("image_processor_type", "CLIPImageProcessor"),
    ):  # fmt: skip
        said = words(PHI3V, preprocessor_config=published | {key: value})
        assert said.startswith(f"{key} is ")


SMOLVLM: dict[str, Any] = {
    "architectures": ["SmolVLMForConditionalGeneration"],
    "scale_factor": 4,
    "text_config": {"model_type": "llama", "vocab_size": 512},
    "vision_config": {"image_size": 512, "patch_size": 16, "hidden_size": 768},
}
SMOLVLM_PICTURES: dict[str, Any] = {
    "do_image_splitting": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "SmolVLMImageProcessor", "resample": 1, "rescale_factor": 1 / 255,
    "max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"size": {"longest_edge": 512}}, ""),
        ({"image_processor_type": "Idefics3ImageProcessorFast"}, ""),
        ({"resample": None, "do_resize": None, "image_mean": None}, ""),  # the class's own
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is CLIP"),
        ({"max_image_size": None}, "max_image_size is {'longest_edge': 364}"),  # the class's own
        ({"size": None}, "size is {'longest_edge': 1456}; its longest_edge"),
        ({"size": {"longest_edge": 256}}, "size is {'longest_edge': 256}"),
        ({"size": {"height": 512, "width": 512}}, "size is {'height': 512"),
        ({"do_normalize": False}, "do_normalize is False"),
    ],
)
def test_what_the_image_processor_does_is_what_the_device_does(
    changes: dict[str, Any], said: str
) -> None:
    told = SMOLVLM_PICTURES | changes
    found = words(SMOLVLM, preprocessor_config=told)
    assert found.startswith(said)
    assert bool(found) == bool(said)
    # where processor_config.json has these settings, transformers reads them there alone
    whole = {"image_processor": told}
    assert words(SMOLVLM, processor_config=whole, preprocessor_config=SMOLVLM_PICTURES) == found
    whole = {"image_processor": SMOLVLM_PICTURES}
    assert words(SMOLVLM, processor_config=whole, preprocessor_config=told) == ""


@pytest.mark.parametrize(("longest", "crops"), [(512, 1), (1024, 4), (2048, None), (4096, None)])
def test_the_model_says_into_how_many_crops_its_processor_cuts(
    longest: int, crops: int | None
) -> None:
    """A device with much memory cut a picture that the processor shows whole."""
    family = family_of(SMOLVLM)
    assert family is not None
    told = {"preprocessor_config.json": SMOLVLM_PICTURES | {"size": {"longest_edge": longest}}}
    assert family.sections(SMOLVLM, told)["vision"].get("image_crops") == crops
    assert "image_crops" not in family.sections(SMOLVLM, {})["vision"]


@pytest.mark.parametrize(
    ("told", "crops"),
    [({"num_crops": 1}, 1), ({"num_crops": 3}, 3), ({}, 1), ({"num_crops": 4}, None)],
)
def test_so_it_does_of_a_phi_3_vision(told: dict[str, Any], crops: int | None) -> None:
    """One crop where `num_crops` lacks: `Phi3VImageProcessor`'s own."""
    family = family_of(PHI3V)
    assert family is not None
    files = {"preprocessor_config.json": told}
    assert family.sections(PHI3V, files)["vision"].get("image_crops") == crops
    assert "image_crops" not in family.sections(PHI3V, {})["vision"]
    assert words(PHI3V, preprocessor_config={"num_crops": "4"}).startswith("num_crops is 4, and it")


def test_an_empty_image_processor_has_the_settings_of_its_class() -> None:
    """That is views of 364 pixels; where no file speaks, the device's views fit the model."""
    for found in (
        words(SMOLVLM, processor_config={"image_processor": {}}),
        words(SMOLVLM, preprocessor_config={}),
    ):
        assert found.startswith("max_image_size is {'longest_edge': 364}, not {")
    assert words(SMOLVLM, processor_config={}) == words(PHI3V, preprocessor_config={}) == ""


@pytest.mark.parametrize("word", ["<fake_token_around_image>", "<global-img>", "<row_4_col_1>"])
def test_a_token_of_a_pictures_place_without_a_row_is_refused(word: str) -> None:
    """No chat template names these, so nobody else looks: the device failed at each picture."""

    def said(**ids: int) -> str:
        told = {"<image>": 600, "<fake_token_around_image>": 5, "<row_9_col_9>": 600} | ids
        added = [{"content": text, "id": number} for text, number in told.items()]
        return words(SMOLVLM, tokenizer={"added_tokens": added})

    assert said() == said(**{word: 511}) == ""
    assert said(**{word: 512}) == f"{word} has the id 512, and vocab_size of text_config is 512"


def test_a_tokenizer_of_another_model_is_refused() -> None:
    """transformers looks for the places of pictures by the id in config.json."""
    added = [{"content": "<image>", "id": 4}, {"content": "<fake_token_around_image>", "id": 5}]
    for known, why in ((4, ""), (6, "image_token_id of config.json is 6, and <image> of tokeni")):
        found = words(SMOLVLM | {"image_token_id": known}, tokenizer={"added_tokens": added})
        assert found.startswith(why)
        assert bool(found) == bool(why)


@pytest.mark.parametrize(
    ("template", "bos", "is_refused"),
    [
        ("{% for m in messages %}{{ m }}{% endfor %}", "<s>", True),
        ("<s>{% for m in messages %}{{ m }}{% endfor %}", {"content": "<s>"}, False),  # Idefics3's
        ("{{- bos_token }}{% for m in messages %}{{ m }}{% endfor %}", "<s>", False),
        ("{% for m in messages %}{{ m }}{% endfor %}", None, True),
    ],
)
def test_a_processor_that_adds_tokens_to_a_prompt_is_refused(
    template: str, bos: object, is_refused: bool, tmp_path: Path
) -> None:
    """`apply_chat_template` of a processor adds what a tokenizer's adds not."""
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}]
    adds = {"type": "TemplateProcessing", "single": single}
    for after, found in (
        (adds, is_refused),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, adds]}, is_refused),
        ({"type": "ByteLevel"}, False),
        (None, False),
    ):
        words = [{"content": text, "id": 4} for text in ("<image>", "<fake_token_around_image>")]
        files = {
            "tokenizer.json": {"added_tokens": words, "post_processor": after},
            "tokenizer_config.json": {"bos_token": bos, "chat_template": "<s> of a tokenizer"},
            "chat_template.json": {"chat_template": template},
        }
        for name, told in files.items():
            (tmp_path / name).write_bytes(msgspec.json.encode(told))
        refused = processor_refusal(tmp_path, SMOLVLM)
        assert bool(refused) == found
        assert not refused or "does not begin with bos_token" in refused.why
        assert processor_refusal(tmp_path, PHI3V) is None  # a device does as its processor


@pytest.mark.parametrize(("scheme", "is_refused"), [("first", True), ("always", False)])
def test_a_tokenizer_that_reads_a_beginning_otherwise_is_refused(
    scheme: str, is_refused: bool
) -> None:
    """The words behind a picture, and the lines of crops, would have a sign of their own."""
    space = {"type": "Metaspace", "replacement": "_", "prepend_scheme": scheme, "split": False}
    added = [{"content": "<image>", "id": 4}, {"content": "<fake_token_around_image>", "id": 5}]
    for first in (space, {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, space]}):
        told = {"added_tokens": added, "pre_tokenizer": first}
        assert ("prepend_scheme first" in words(SMOLVLM, tokenizer=told)) == is_refused
    # each of Phi-3-vision's pieces is a text, as its own processor has it
    assert words(PHI3V, tokenizer={"added_tokens": added, "pre_tokenizer": space}) == ""


def test_the_text_parts_settings_are_its_own_alone() -> None:
    """A merge patch goes into objects: other settings of the same name above came through."""
    inner = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    text = SMOLVLM["text_config"] | {"rope_scaling": inner, "id2label": {"0": "a"}}
    above = {"attention_factor": 2.0, "rope_theta": 7.0, "rope_type": "linear", "x": {"y": 1}}
    config = SMOLVLM | {"text_config": text, "rope_scaling": above, "id2label": {"1": "b"}}
    patch = as_text(config)
    assert patch is not None
    told = mended(config, (patch,))
    assert told["rope_scaling"] == inner
    assert told["id2label"] == {"0": "a"}


def test_the_whole_says_first_which_token_ends_an_answer() -> None:
    """transformers' `GenerationConfig.from_model_config` looks into the text part afterwards."""
    ids = {"eos_token_id": 8, "bos_token_id": 9, "pad_token_id": 10}
    inner = SMOLVLM["text_config"] | ids
    both = {"eos_token_id": 7, "bos_token_id": None, "pad_token_id": 11}
    found = text_config(SMOLVLM | {"text_config": inner} | both)
    assert {key: found[key] for key in ids} == ids | {"eos_token_id": 7}
    found = text_config(SMOLVLM | both)
    assert (found["eos_token_id"], found["pad_token_id"]) == (7, 11)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vision_config": "siglip"}, "vision_config has a setting of another type"),
        ({"vision_config": []}, "vision_config has a setting of another type"),
        (
            {"vision_config": {"image_size": 1040, "patch_size": 10}},
            "16 crops of image_size 1040 have sides above 4096",
        ),
        ({"vision_config": {"image_size": 1024, "patch_size": 16}}, ""),
    ],
)
def test_another_part_that_sees_than_transformers_is_refused(
    config: dict[str, Any], said: str
) -> None:
    found = refusal(SMOLVLM | config)
    assert said in found
    assert bool(found) == bool(said)


@pytest.mark.parametrize("name", ["image_token", "fake_image_token", "global_image_token"])
def test_a_tokenizer_that_names_other_tokens_of_pictures_is_refused(name: str) -> None:
    own = {
        "image_token": "<image>", "fake_image_token": {"content": "<fake_token_around_image>"},
        "global_image_token": "<global-img>", "bos_token": "<|im_start|>",
    }  # fmt: skip
    assert words(SMOLVLM, tokenizer_config=own) == ""
    other = own | {name: "<picture>"}
    for told in (other, {"extra_special_tokens": other}, {"model_specific_special_tokens": other}):
        assert words(SMOLVLM, tokenizer_config=told).startswith(f"{name} is <picture>, not <")
    assert words(SMOLVLM, tokenizer_config={"extra_special_tokens": ["<picture>"]}) == ""


@pytest.mark.parametrize(
    ("config", "files", "wanted"),
    [
        (SMOLVLM, {"tokenizer_config.json": "T", "chat_template.json": "P"}, "P"),
        (SMOLVLM, {"chat_template.jinja": "J", "chat_template.json": "P"}, "P"),
        (SMOLVLM, {"processor_config.json": "C", "chat_template.json": "P"}, "C"),
        (SMOLVLM, {"tokenizer_config.json": "T", "processor_config.json": "C"}, "C"),
        (SMOLVLM, {"tokenizer_config.json": "T"}, "T"),
        (SMOLVLM, {"processor_config.json": {"default": "C", "rag": "R"}}, "C"),
        # its model card renders with the tokenizer
        (PHI3V, {"tokenizer_config.json": "T", "chat_template.json": "P"}, "T"),
        (PHI3V, {"chat_template.json": "P"}, "P"),
    ],
)
def test_the_chat_template_is_that_of_transformers(
    config: dict[str, Any], files: dict[str, Any], wanted: str, tmp_path: Path
) -> None:
    """A processor reads its own files first, and its tokenizer's template may be another."""
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    (source / "config.json").write_bytes(msgspec.json.encode(config))
    for name, text in files.items():
        told = text if name.endswith(".jinja") else json.dumps({"chat_template": text})
        (source / name).write_text(told)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    view, _ = as_told(source, work)
    assert read_template(view) == wanted
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_the_longest_context_is_found_where_transformers_saves_it() -> None:
    saved = {key: value for key, value in PHI3V.items() if not key.startswith("original_")}
    assert longest_context(saved) == 4096
    rope = PHI3V["rope_scaling"] | {"original_max_position_embeddings": 2048}
    assert longest_context(saved | {"rope_scaling": rope}) == 2048


def test_the_build_id_of_a_text_model_is_what_it_was() -> None:
    """Bundles of text models stay equal to the byte; this id is from before there were pictures."""
    spec = BuildSpec(Source("folder", "x", "", {}), "int4", "cpu", {}, {}, "ab")
    assert b'"vision"' not in msgspec.json.encode(spec)
    known = "02556afc43fa"
    assert spec.build_id()[:12] == known
    seeing = msgspec.structs.replace(spec, vision="int8")
    assert seeing.build_id() != spec.build_id()
    assert msgspec.json.decode(msgspec.json.encode(seeing), type=BuildSpec) == seeing


def test_a_build_toml_names_the_vision_precision(tmp_path: Path) -> None:
    file = tmp_path / "build.toml"
    file.write_text('model = "m"\noutput = "o"\nvision-precision = "fp32"\n')
    request = buildfile.load(file).request((), (), "auto", gated=True)
    assert request.vision_precision == "fp32"
