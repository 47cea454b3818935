"""Search defaults and token ids of a source, as transformers takes them."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from edgekit.builder.make.prepare import refuse_words
from edgekit.builder.make.told import as_told
from edgekit.builder.support.generation import (
    DEFAULTS,
    beyond_rows,
    generation_mends,
    search_defaults,
    unusable,
)
from edgekit.builder.support.mend import ATTRIBUTES, merge_patch
from edgekit.bundle.pack import GenaiConfig
from edgekit.errors import UsageError

ROWS: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "vocab_size": 64, "eos_token_id": 2}


def built(config: dict[str, Any], generation: dict[str, Any] | None) -> dict[str, Any]:
    """The search defaults of genai_config.json, by the builder's own rule.

    `make_genai_config` of base.py: four are those of generation_config.json, and the penalty is an
    attribute of the configuration. transformers 5 takes the others of config.json away.
    """
    for each in generation_mends(config, generation):
        config = merge_patch(config, each.config)
        generation = merge_patch(generation or {}, each.generation)
    found = {key: (generation or {}).get(key) for key in DEFAULTS}
    found["repetition_penalty"] = config.get(ATTRIBUTES, {}).get("repetition_penalty")
    return {key: default if found[key] is None else found[key] for key, default in DEFAULTS.items()}


@pytest.mark.parametrize(
    ("config", "generation", "changed"),
    [
        ({}, None, {}),
        ({}, {}, {}),
        ({}, {"do_sample": True, "temperature": 0.7}, {"do_sample": True, "temperature": 0.7}),
        # config.json speaks only where there is no generation_config.json
        ({"do_sample": True, "temperature": 0.3}, None, {"do_sample": True, "temperature": 0.3}),
        ({"do_sample": True, "temperature": 0.3}, {}, {}),
        ({"top_k": 5}, {"top_k": 50}, {}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),
        ({}, {"repetition_penalty": 1.05}, {"repetition_penalty": 1.05}),  # as Qwen 2.5 has it
        ({}, {"do_sample": True, "top_k": -1}, {"do_sample": True, "top_k": 0}),
        ({}, {"do_sample": True, "top_k": None}, {"do_sample": True}),
        ({}, {"do_sample": True, "temperature": 0}, {}),
        ({}, {"do_sample": True, "temperature": 0.0, "top_p": 0.9}, {"top_p": 0.9}),
        ({}, {"do_sample": True, "top_p": 1.5}, {"do_sample": True}),
        ({"top_k": -1}, None, {"top_k": 0}),
    ],
)
def test_a_built_model_has_the_defaults_that_transformers_generates_with(
    config: dict[str, Any], generation: dict[str, Any] | None, changed: dict[str, Any]
) -> None:
    assert unusable(config, generation) is None
    assert search_defaults(config, generation) == DEFAULTS | changed
    assert built(config, generation) == DEFAULTS | changed


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        ({"do_sample": True, "top_k": -1}, "top_k of -1 is built as 0"),
        ({"do_sample": True, "temperature": 0.0}, "temperature of 0 is built as greedy"),
        ({"top_p": 1.5}, "top_p of 1.5 is built as 1.0"),
        ({"num_beams": 4, "min_p": 0.05}, "min_p, num_beams are left to the requests"),
        ({"begin_suppress_tokens": [5]}, "begin_suppress_tokens is left to the requests"),
        ({"sequence_bias": [[[5], -9.0]], "guidance_scale": 1.5}, "guidance_scale, sequence_bias"),
        ({"stop_strings": ["###"], "encoder_repetition_penalty": 1.2}, "stop_strings are left"),
        ({"forced_bos_token_id": 0}, "forced_bos_token_id is left to the requests"),
    ],
)
def test_a_changed_default_is_said(generation: dict[str, Any], said: str) -> None:
    assert said in "; ".join(each.why for each in generation_mends({}, generation))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "0.7"), ("temperature", -1.0), ("temperature", True), ("top_p", -0.1),
        ("top_p", [0.9]), ("top_k", -2), ("top_k", 5.5), ("top_k", "50"),
        ("repetition_penalty", 0), ("repetition_penalty", -1.0), ("repetition_penalty", "1.1"),
        ("do_sample", "yes"), ("do_sample", 1),
    ],
)  # fmt: skip
def test_a_default_that_nobody_can_mean_is_refused_by_name(key: str, value: object) -> None:
    for config, generation in (({}, {key: value}), ({key: value}, None)):
        found = unusable(config, generation)
        assert found is not None
        assert f"default {key}" in found.what
        assert repr(value) in found.why
    # transformers does not read it there
    assert unusable({key: value}, {}) is None


@pytest.mark.parametrize(
    ("config", "generation", "said"),
    [
        ({"pad_token_id": 64}, None, "pad_token_id is 64"),
        ({"eos_token_id": 64}, None, "eos_token_id is 64"),
        ({"eos_token_id": 2}, {"eos_token_id": [64, 99]}, "eos_token_id is 64, 99"),
        ({"eos_token_id": "2"}, None, "is not a token id"),
        ({}, {"eos_token_id": [2, "3"]}, "is not a token id"),
        ({"bos_token_id": 1.5}, None, "is not a token id"),
        ({"text_config": {"vocab_size": 64, "pad_token_id": 70}}, None, "pad_token_id is 70"),
    ],
)
def test_token_ids_without_a_row_are_refused(
    config: dict[str, Any], generation: dict[str, Any] | None, said: str
) -> None:
    found = unusable(ROWS | config, generation)
    assert found is not None
    assert said in f"{found.what} {found.why}"


@pytest.mark.parametrize(
    ("config", "generation", "left"),
    [
        ({"eos_token_id": [2, 64]}, None, ({"eos_token_id": [2]}, {})),
        ({}, {"eos_token_id": [2, 99], "pad_token_id": 70}, ({}, {"eos_token_id": [2]})),
        ({"pad_token_id": -1}, None, ({}, {})),
        ({"bos_token_id": 64}, {"bos_token_id": 64}, ({}, {})),
    ],
)
def test_token_ids_that_can_be_spared_are_left_out_and_said(
    config: dict[str, Any], generation: dict[str, Any] | None, left: tuple[Any, Any]
) -> None:
    assert unusable(ROWS | config, generation) is None
    mends = generation_mends(ROWS | config, generation)
    assert all("is left out: the model has 64 rows" in each.why for each in mends)
    for number in (0, 1):
        patch: dict[str, Any] = {}
        for each in mends:
            patch |= (each.config, each.generation)[number]
        assert {key: value for key, value in patch.items() if value is not None} == left[number]


@pytest.mark.parametrize(
    ("added", "template", "taken"),
    [
        ([{"id": 70, "content": "<image>", "special": True}], "", True),  # no text makes it
        ([{"id": 70, "content": "<call>", "special": False}], "", False),
        ([{"id": 70, "content": "<turn>", "special": True}], "{{ '<turn>' }}", False),
        ([{"id": 63, "content": "<turn>", "special": False}], "", True),
    ],
)
def test_words_without_a_row_are_refused(
    added: list[dict[str, Any]], template: str, taken: bool
) -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 62}}, "added_tokens": added}
    found = beyond_rows(ROWS, tokenizer, template)
    assert (found is None) is taken
    assert taken or "ids go up to 70" in str(found)


def test_a_vocabulary_longer_than_the_embedding_is_refused() -> None:
    assert beyond_rows(ROWS, {"model": {"vocab": {"a": 0, "z": 64}}}, "")
    assert beyond_rows(ROWS, {"model": {"vocab": [["a", -1.0]] * 65}}, "")  # Unigram's form
    assert beyond_rows(ROWS, {"model": {"vocab": [["a", -1.0]] * 64}}, "") is None


def test_they_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    generation = tmp_path / "generation_config.json"
    generation.write_text('{"top_p": "much"}')
    with pytest.raises(UsageError) as caught:
        refuse_words(tmp_path, ROWS)
    assert "top_p" in caught.value.what
    generation.write_text("{broken")
    with pytest.raises(UsageError) as caught:
        refuse_words(tmp_path, ROWS)
    assert "no readable generation_config.json" in caught.value.what


@pytest.mark.parametrize(
    ("template", "place", "taken"),
    [
        ("{{ messages }}", "chat_template.jinja", True),
        ("{{ eos_token }}", "chat_template.jinja", False),
        ("{{ '<end>' }}", "additional_chat_templates/tool_use.jinja", False),
    ],
)
def test_a_token_that_a_template_names_needs_a_row(
    template: str, place: str, taken: bool, tmp_path: Path
) -> None:
    added = [{"id": 64, "content": "<end>", "special": True}]
    files: dict[str, Any] = {
        "tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": added},
        "tokenizer_config.json": {"eos_token": {"content": "<end>"}, "add_bos_token": True},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(template)
    if taken:
        refuse_words(tmp_path, ROWS)
        return
    with pytest.raises(UsageError, match="no row for"):
        refuse_words(tmp_path, ROWS)


def test_the_view_has_both_files_and_the_source_is_untouched(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    before = json.dumps({"do_sample": True, "top_k": -1, "eos_token_id": [2, 99]})
    (source / "config.json").write_text(json.dumps(ROWS))
    (source / "generation_config.json").write_text(before)
    view, notes = as_told(source, work)
    assert json.loads((view / "generation_config.json").read_text()) == {
        "do_sample": True, "top_k": 0, "eos_token_id": [2],
    }  # fmt: skip
    assert json.loads((view / "config.json").read_text()) == ROWS
    assert (source / "generation_config.json").read_text() == before
    assert len(notes) == 2


def test_a_text_part_of_a_model_that_sees_has_the_words_of_both_parts(tmp_path: Path) -> None:
    """Without generation_config.json, transformers looks into text_config after the whole."""
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    inner = ROWS | {"model_type": "llama", "eos_token_id": [2, 99], "do_sample": True, "top_k": 4}
    whole = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "text_config": inner | {"repetition_penalty": 1.5},
        "top_k": 3,
        "vision_config": {"image_size": 512, "patch_size": 16},
    }
    (source / "config.json").write_text(json.dumps(whole))
    view, _ = as_told(source, work)
    told = json.loads((view / "config.json").read_text())
    assert told["eos_token_id"] == [2]
    assert "text_config" not in told  # transformers failed on a Llama with one
    assert told[ATTRIBUTES] == {"repetition_penalty": 1.5}
    said = json.loads((view / "generation_config.json").read_text())
    assert said == {"do_sample": True, "top_k": 3, "repetition_penalty": 1.5}


def test_an_answer_of_a_model_that_sees_ends(tmp_path: Path) -> None:
    text = {"text_config": ROWS | {"model_type": "llama"}, "eos_token_id": 99}
    with pytest.raises(UsageError, match="nothing would end an answer"):
        refuse_words(tmp_path, {"architectures": ["SmolVLMForConditionalGeneration"]} | text)


def test_defaults_of_config_json_alone_go_where_the_builder_looks(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    source.mkdir()
    work.mkdir()
    defaults = {"do_sample": True, "top_k": 5, "repetition_penalty": 1.1}
    (source / "config.json").write_text(json.dumps(ROWS | defaults))
    view, notes = as_told(source, work)
    assert json.loads((view / "generation_config.json").read_text()) == {
        "do_sample": True, "top_k": 5, "repetition_penalty": 1.1,
    }  # fmt: skip
    told = json.loads((view / "config.json").read_text())
    assert told[ATTRIBUTES] == {"repetition_penalty": 1.1}
    assert notes == ()


def test_the_lint_finds_the_search_defaults_in_config_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose config.json alone has them was built right, and refused by the lint."""
    for name in ("lint", "lint.difference", "lint.original", "vision", "vision.smolvlm"):
        monkeypatch.setitem(sys.modules, name, MagicMock())  # of the toolchain
    lint = import_module("edgekit.builder.inside.lint.texts")
    monkeypatch.delitem(sys.modules, lint.__name__)
    config = {"text_config": {"top_k": 4, "do_sample": True}, "top_k": 3, "do_sample": None}
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    assert lint._generation(tmp_path) == {"top_k": 3, "do_sample": True}
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.5}')
    assert lint._generation(tmp_path) == {"top_p": 0.5}


def test_a_greedy_model_keeps_its_repetition_penalty_in_the_bundle() -> None:
    def sampling(**search: Any) -> dict[str, Any]:
        return GenaiConfig({}, search).sampling

    assert sampling(do_sample=False, repetition_penalty=1.1, top_k=40) == {
        "temperature": 0.0, "repetition_penalty": 1.1,
    }  # fmt: skip
    assert sampling(do_sample=False, repetition_penalty=1.0) == {"temperature": 0.0}


@pytest.mark.parametrize(
    ("told", "window"),
    [
        (None, 0),
        ({"window_size": 4096, "layers": [0]}, 4096),
        ({"window_size": 4096, "layers": []}, 0),
        ({"window_size": 16}, 16),
    ],
)
def test_a_bundle_reserves_a_whole_window(told: dict[str, Any] | None, window: int) -> None:
    decoder = {"num_key_value_heads": 8, "head_size": 128, "num_hidden_layers": 32}
    genai = GenaiConfig({"decoder": decoder | ({"sliding_window": told} if told else {})})
    assert genai.window == window
    if window == 4096:
        assert "4096 tokens is reserved in full, 1074 MB" in genai.reserves(512)
