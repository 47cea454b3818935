"""Checkpoints whose tensors are not those of their config.json: plan and build refuse by name."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.builder.make.prepare import prepare
from edgekit.builder.make.told import as_told
from edgekit.builder.plan.gather import plan_build
from edgekit.builder.plan.plan import Plan
from edgekit.builder.request.request import BuildRequest
from edgekit.builder.source.soundness import unsound
from edgekit.builder.source.values import Slice, same_values
from edgekit.builder.spec import BuildRecord
from edgekit.builder.support.change import Mend
from edgekit.builder.support.families import expected_tensors, is_tied, says_tied, tying
from edgekit.builder.support.leftovers import explained, is_leftover
from edgekit.builder.support.weights import head_lookalike, lost_by_type, wrong_weights
from edgekit.builder.tools.host import HostToolchain
from edgekit.builder.verify import verify
from edgekit.cli.model.plan import plan_text
from edgekit.errors import UsageError
from tests.building import silent
from tests.checkpoints import LLAMA, TENSORS, Shape, write_model, write_weights
from tests.models.gguf_file import write_sparse
from tests.unit.test_gguf_header import LLAMA as GGUF

INDEX = "model.safetensors.index.json"


def planned(folder: Path, *options: str) -> Plan:
    return plan_build(BuildRequest(str(folder), Path("nowhere"), options=options), silent)


def refusal(folder: Path, *options: str) -> str:
    """What both plan and build say, which is the same."""
    request = BuildRequest(str(folder), Path("nowhere"), options=options)
    with pytest.raises(UsageError) as caught:
        prepare(request, "00", silent)
    error = caught.value
    assert error.next_step
    assert said_by_plan(request) == (error.what, error.why)
    return f"{error.what} | {error.why} | {error.next_step}"


def said_by_plan(request: BuildRequest) -> tuple[str, str]:
    try:
        plan = plan_build(request, silent)
    except UsageError as error:
        return error.what, error.why
    assert not plan.supported
    assert "CANNOT be built" in plan_text(plan)
    (only,) = plan.refusals
    return only.what, only.why


def taken(folder: Path, *options: str) -> tuple[str, ...]:
    """The notes of a build that is not refused, which the plan has, too."""
    plan = planned(folder, *options)
    assert plan.supported, plan_text(plan)
    request = BuildRequest(str(folder), Path("nowhere"), options=options)
    notes = prepare(request, "00", silent).notes
    assert set(plan.notes) >= set(notes)
    return notes


def without(*names: str) -> dict[str, Shape]:
    return {name: shape for name, shape in TENSORS.items() if name not in names}


def test_words_of_a_model_that_sees_are_refused_by_its_plan_too(tmp_path: Path) -> None:
    """The plan looked into the text part alone, and announced what the build refused."""
    whole: dict[str, Any] = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "text_config": LLAMA,
        "top_k": "many",
        "vision_config": {"image_size": 64, "patch_size": 16},
    }
    text = {name.replace("model.", "model.text_model.", 1): TENSORS[name] for name in TENSORS}
    write_model(tmp_path, text, **whole)
    added = [{"content": text, "id": 9} for text in ("<image>", "<fake_token_around_image>")]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert "default top_k is not one to generate with | it is 'many'" in refusal(tmp_path)


def test_a_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    assert taken(write_model(tmp_path / "m"))


# --- what the builder is told is part of the build's identity -------------------------------------


def identity(source: Path) -> str:
    (candidate,) = prepare(BuildRequest(str(source), Path("nowhere")), "00", silent).candidates
    assert candidate.spec.build_id() != msgspec.structs.replace(candidate.spec, told="x").build_id()
    return candidate.spec.build_id()


def test_a_source_that_is_read_otherwise_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of an earlier rule counted as up to date, though it was wrong."""
    source = write_model(tmp_path / "m")
    plain = identity(source)
    for key in (1, 2):
        told = (Mend({"rms_norm_eps": key}, "a rule"),)
        monkeypatch.setattr("edgekit.builder.make.told.mends", lambda *_, told=told: told)
        assert identity(source) != plain
        plain = identity(source)
    monkeypatch.setattr("edgekit.builder.make.told.mends", lambda *_: ())
    known = prepare(BuildRequest(str(source), Path("nowhere")), "00", silent).candidates[0].spec
    assert b"told" not in msgspec.json.encode(known)


def test_a_build_of_another_rule_cannot_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files would differ, which said that they were changed."""
    source = write_model(tmp_path / "m")
    spec = prepare(BuildRequest(str(source), Path("nowhere")), "00", silent).candidates[0].spec
    told = msgspec.structs.replace(spec, told="earlier")
    made = tmp_path / "made"
    made.mkdir()
    record = BuildRecord(told.build_id(), {}, spec=told, tools={}, seconds=0)
    (made / "build.json").write_bytes(msgspec.json.encode(record))
    toolchain = HostToolchain()
    monkeypatch.setattr(toolchain, "digest", "00")
    with pytest.raises(UsageError, match="cannot repeat") as refused:
        verify(made, toolchain, silent, model=str(source))
    assert "other settings" in refused.value.why


def test_a_gguf_file_that_is_read_otherwise_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    write_sparse(path, GGUF, {"token_embd.weight": (3, 8)})
    before = identity(path)
    assert identity(path) == before
    monkeypatch.setattr("edgekit.builder.source.gguf.sampling_of", lambda _: {"top_k": 7})
    assert identity(path) != before


@pytest.mark.parametrize("tied", [True, False])
def test_the_ladder_of_a_gguf_file_leaves_out_what_would_not_load(
    tied: bool, tmp_path: Path
) -> None:
    shapes: dict[str, Shape] = {"token_embd.weight": (3, 8)}
    shapes |= {} if tied else {"output.weight": (3, 8)}
    path = write_sparse(tmp_path / "m.gguf", GGUF, shapes)
    (tmp_path / "adapter").mkdir()
    request = BuildRequest(
        str(path), Path("nowhere"), options=(f"adapter_path={tmp_path / 'adapter'}",), recipe="auto"
    )
    names = [each.recipe for each in prepare(request, "00", silent).candidates]
    assert ("plain-head8" in names) is not tied
    assert "int8" in names


# --- missing, unexpected, of another shape -------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "config"),
    [
        (["model.norm.weight"], {}),
        (["model.layers.1.mlp.up_proj.weight"], {}),
        (["model.embed_tokens.weight"], {}),
        (["lm_head.weight"], {}),
        (["model.embed_tokens.weight", "lm_head.weight"], {"tie_word_embeddings": True}),
        (["model.layers.0.input_layernorm.weight"], {}),
    ],
)
def test_a_missing_tensor_is_refused_by_name(
    names: list[str], config: dict[str, Any], tmp_path: Path
) -> None:
    said = refusal(write_model(tmp_path / "m", without(*names), **config))
    assert f"the checkpoint lacks {names[0]}" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"attention_bias": True}, "8 tensors: model.layers.0.self_attn.q_proj.bias"),
        ({"mlp_bias": True}, "model.layers.0.mlp.gate_proj.bias"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "model.layers.0.self_attn.q_proj.bias"),
        (
            {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
            "model.layers.0.self_attn.q_norm.weight",
        ),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
        ({"architectures": ["Phi3ForCausalLM"]}, "model.layers.0.self_attn.qkv_proj.weight"),
        (
            {"architectures": ["Gemma2ForCausalLM"], "head_dim": 16},
            "pre_feedforward_layernorm.weight",
        ),
    ],
)
def test_a_tensor_that_config_json_wants_is_missed(
    config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = refusal(write_model(tmp_path / "m", **config))
    assert "the checkpoint lacks" in found
    assert said in found


def test_a_head_that_is_missing_may_be_the_embedding(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", without("lm_head.weight"))
    assert "tie_word_embeddings" in refusal(folder)
    taken(write_model(tmp_path / "tied", without("lm_head.weight"), tie_word_embeddings=True))
    # transformers ties to the one that is there
    headed = without("model.embed_tokens.weight")
    taken(write_model(tmp_path / "head", headed, tie_word_embeddings=True))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_norm.weight", "score.weight",
        "model.layers.0.mlp.up_proj.weight_scale_inv", "model.layers.0.self_attn.q_proj.lora_A",
    ],
)  # fmt: skip
def test_a_tensor_without_a_place_is_refused_by_name(name: str, tmp_path: Path) -> None:
    said = refusal(write_model(tmp_path / "m", TENSORS | {name: (64,)}))
    assert f"without a place in the model: {name}" in said


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
        "model.layers.1.self_attn.rotary_emb.cos_cached", "model.layers.0.attn.masked_bias",
        "model.embeddings.position_ids", "v_head.summary.weight",
    ],
)  # fmt: skip
def test_a_harmless_leftover_is_taken(name: str, tmp_path: Path) -> None:
    taken(write_model(tmp_path / "m", TENSORS | {name: (64,)}))


def test_a_model_that_sees_may_have_eyes() -> None:
    eye = "visual.blocks.0.attn.qkv.weight"
    seeing = explained({"architectures": ["Qwen3VLForConditionalGeneration"]})
    assert len(seeing) == len(explained(LLAMA)) + 1
    assert not is_leftover(eye)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.mlp.up_proj.weight", (130, 64)),
        ("model.layers.0.self_attn.k_proj.weight", (64, 64)),
        ("model.embed_tokens.weight", (100, 64)),
        ("lm_head.weight", (100, 64)),
        ("model.norm.weight", (32,)),
    ],
)
def test_a_tensor_of_another_shape_is_refused_by_name(
    name: str, shape: Shape, tmp_path: Path
) -> None:
    said = refusal(write_model(tmp_path / "m", TENSORS | {name: shape}))
    assert f"{name} has another shape" in said
    assert " x ".join(map(str, shape)) in said


def test_names_without_the_prefix_are_the_same_model(tmp_path: Path) -> None:
    bare = {name.removeprefix("model."): shape for name, shape in TENSORS.items()}
    taken(write_model(tmp_path / "m", bare))


def test_a_dimension_that_config_json_leaves_out_is_not_compared() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert wrong_weights(config, TENSORS) is None
    assert wrong_weights(LLAMA | {"intermediate_size": "128"}, TENSORS) is None


def packed(kind: str) -> tuple[dict[str, Shape], dict[str, Any]]:
    form: dict[str, Shape] = {}
    for name, shape in TENSORS.items():
        if name.endswith("_proj.weight"):
            stem = name.removesuffix("weight")
            form |= {f"{stem}{part}": (8, 8) for part in ("qweight", "qzeros", "scales")}
        else:
            form[name] = shape
    return form, {"quantization_config": {"quant_method": kind, "bits": 4, "group_size": 32}}


@pytest.mark.parametrize("kind", ["awq", "gptq", "olive"])
@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.qweight", "model.layers.1.self_attn.q_proj.scales",
             "model.norm.weight"],
)  # fmt: skip
def test_a_quantised_checkpoint_lacks_nothing(kind: str, name: str, tmp_path: Path) -> None:
    form, config = packed(kind)
    taken(write_model(tmp_path / "whole", form, **config))
    del form[name]
    assert f"the checkpoint lacks {name}" in refusal(write_model(tmp_path / "m", form, **config))


@pytest.mark.parametrize(
    ("groups", "right"),
    [
        ([0] * 32 + [1] * 32, True),
        ([0] * 64, True),
        ([1] * 32 + [0] * 32, False),
        ([0, 1] * 32, False),
    ],
)
def test_columns_of_a_group_lie_side_by_side(
    groups: list[int], right: bool, tmp_path: Path
) -> None:
    """Also where desc_act is false, which is all that the builder looks at."""
    form, config = packed("gptq")
    stem = "model.layers.0.self_attn.q_proj"
    form |= {f"{stem}.g_idx": (64,), f"{stem}.scales": (max(groups) + 1, 64)}
    values = {f"{stem}.g_idx": struct.pack("<64i", *groups)}
    model = write_model(tmp_path / "m", form, {f"{stem}.g_idx": "I32"}, values, **config)
    if right:
        taken(model)
    else:
        assert f"activation order | {stem}.g_idx" in refusal(model)


@pytest.mark.parametrize(
    ("kind", "words", "right"),
    [
        ("gptq", [0x77777777] * 64, True),  # 7 is 8 in the first format, symmetric
        ("gptq", [0x88888888] * 64, False),
        ("gptq", [0x80808080] * 64, False),
        ("gptq", [0x88888888] * 63 + [0x88888889], True),  # asymmetric
        ("awq", [0x88888888] * 64, True),
    ],
)
def test_a_gptq_checkpoint_of_the_second_format_need_not_say_so(
    kind: str, words: list[int], right: bool, tmp_path: Path
) -> None:
    form, config = packed(kind)
    zeros = [name for name in form if name.endswith(".qzeros")]
    values = dict.fromkeys(zeros, struct.pack("<64I", *words))
    model = write_model(tmp_path / "m", form, dict.fromkeys(zeros, "I32"), values, **config)
    if right:
        taken(model)
    else:
        assert "those of the layout gptq_v2" in refusal(model)


def test_a_family_that_is_not_listed_has_its_ends(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "architectures": ["Lfm2ForCausalLM"], "tie_word_embeddings": False,
    }  # fmt: skip
    assert expected_tensors(LLAMA | config) is None
    table = {"model.embed_tokens.weight": (96, 64), "lm_head.weight": (96, 64)}
    taken(write_model(tmp_path / "m", table, **config))
    for name in table:
        rest = {other: shape for other, shape in table.items() if other != name}
        said = refusal(write_model(tmp_path / name, rest, **config))
        assert f"the checkpoint lacks {name}" in said


@pytest.mark.parametrize("name", sorted(name for name in TENSORS if "layers" in name))
def test_a_layer_that_lacks_what_another_has_is_refused(name: str) -> None:
    config = {"architectures": ["GptOssForCausalLM"]}
    assert wrong_weights(LLAMA | config, TENSORS) is None
    assert f"lacks {name}" in str(wrong_weights(LLAMA | config, without(name)))


def test_layers_of_two_kinds_are_two_kinds() -> None:
    ends = {name: TENSORS[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    kinds = {"model.layers.0.conv.weight": (3,), "model.layers.1.self_attn.q_proj.weight": (3, 3)}
    norms = {f"model.layers.{i}.ffn_norm.weight": (3,) for i in range(2)}
    config = LLAMA | {"architectures": ["Lfm2ForCausalLM"]}
    assert wrong_weights(config, ends | kinds | norms) is None
    eye = {"visual.layers.0.a.weight": (3,), "model.layers.1.rotary_emb.inv_freq": (3,)}
    assert wrong_weights(config, ends | kinds | norms | eye) is None


# --- tied, or not --------------------------------------------------------------------------------


def floats(*numbers: float, kind: str) -> bytes:
    """The numbers over and over, as a table of 96 x 64."""
    wide = struct.pack(f"<{len(numbers)}f", *numbers)
    once = {
        "F32": wide,
        "BF16": b"".join(wide[i + 2 : i + 4] for i in range(0, len(wide), 4)),
        "F16": struct.pack(f"<{len(numbers)}e", *numbers),
    }[kind]
    return once * (96 * 64 // len(numbers))


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("other", ["F32", "BF16", "F16"])
def test_a_tied_head_is_the_embedding(kind: str, other: str, tmp_path: Path) -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    kinds = dict(zip(names, (kind, other), strict=True))
    same = {name: floats(0.5, -1.25, 0.0078125, 3.0, kind=each) for name, each in kinds.items()}
    taken(write_model(tmp_path / "m", TENSORS, kinds, same, tie_word_embeddings=True))
    same["lm_head.weight"] = floats(0.5, -1.25, 0.0078125, 2.0, kind=other)
    folder = write_model(tmp_path / "two", TENSORS, kinds, same, tie_word_embeddings=True)
    said = refusal(folder)
    assert "lm_head.weight is not the embedding" in said
    assert "set tie_word_embeddings to false" in said
    taken(write_model(tmp_path / "untied", TENSORS, kinds, same))


def test_one_value_beyond_the_first_piece_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.builder.source.values.PIECE", 7)
    data = bytes(range(100))
    (tmp_path / "a").write_bytes(b"xx" + data)
    (tmp_path / "b").write_bytes(data)
    here, there = Slice(tmp_path / "a", 2, 102), Slice(tmp_path / "b", 0, 100)
    assert same_values((here, "I8"), (there, "I8"))
    (tmp_path / "b").write_bytes(data[:-1] + b"\0")
    assert not same_values((here, "I8"), (there, "I8"))
    assert not same_values((here, "I8"), (there, "U8"))
    assert not same_values((here, "I8"), (Slice(tmp_path / "b", 0, 99), "I8"))


def test_what_config_json_leaves_out_is_the_default_of_the_class() -> None:
    silent_ = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    assert not is_tied(silent_)
    assert is_tied(silent_ | {"architectures": ["Gemma2ForCausalLM"]})
    assert not is_tied(silent_ | {"text_config": {"tie_word_embeddings": True}})
    assert is_tied({"architectures": ["Gemma4ForConditionalGeneration"]})


@pytest.mark.parametrize(
    ("name", "whole", "inner", "said"),
    [
        # transformers reads the whole model's key, which a few classes have as true
        ("Mistral3ForConditionalGeneration", None, False, None),
        ("Mistral3ForConditionalGeneration", None, None, None),
        ("Mistral3ForConditionalGeneration", False, True, False),
        ("Mistral3ForConditionalGeneration", None, True, None),
        ("Lfm2VlForConditionalGeneration", None, False, None),
        ("Qwen3VLForConditionalGeneration", None, None, None),
        ("Qwen3VLForConditionalGeneration", None, False, None),
        ("Qwen3VLForConditionalGeneration", None, True, None),
        ("Qwen3_5ForConditionalGeneration", None, True, None),
        ("Qwen3_5ForConditionalGeneration", True, False, True),
        ("Qwen3VLForConditionalGeneration", False, True, False),
        # older files have it within text_config, and the class passes it on
        ("Qwen2_5_VLForConditionalGeneration", False, True, True),
        ("Qwen2_5_VLForConditionalGeneration", None, False, None),
        ("Qwen2_5_VLForConditionalGeneration", None, True, True),
    ],
)
def test_the_key_that_ties_is_the_one_that_the_class_reads(
    name: str, whole: bool | None, inner: bool | None, said: bool | None
) -> None:
    config = {
        "architectures": [name], "tie_word_embeddings": whole,
        "text_config": {"tie_word_embeddings": inner},
    }  # fmt: skip
    assert says_tied(config) is said
    assert is_tied(config) is (said is True or (said is None and name[0] in "ML"))


@pytest.mark.parametrize(
    ("name", "whole", "inner", "way"),
    [
        # as transformers' class of the whole has it: without a head it would have a random one
        ("Qwen3VLForConditionalGeneration", None, True, "so, beside text_config"),
        ("Qwen3VLForConditionalGeneration", None, None, "beside text_config"),
        ("Qwen3VLForConditionalGeneration", True, None, ""),
        ("Qwen2_5_VLForConditionalGeneration", None, True, ""),
        ("Mistral3ForConditionalGeneration", None, None, ""),
        # the builder and the gate load its text part by itself
        ("Qwen3_5ForConditionalGeneration", True, None, "within text_config, too"),
        ("Qwen3_5MoeForConditionalGeneration", True, False, "within text_config, too"),
        ("Qwen3_5ForConditionalGeneration", None, None, "beside text_config and in it"),
        ("Qwen3_5ForConditionalGeneration", False, True, "beside text_config and in it"),
        ("Qwen3_5ForConditionalGeneration", None, True, ""),
        ("Qwen3_5ForConditionalGeneration", True, True, ""),
    ],
)  # fmt: skip
def test_a_whole_model_without_a_head_is_one_that_its_class_ties(
    name: str, whole: bool | None, inner: bool | None, way: str
) -> None:
    def key(value: bool | None) -> dict[str, Any]:
        return {} if value is None else {"tie_word_embeddings": value}

    config = {"architectures": [name], **key(whole), "text_config": {"vocab_size": 8, **key(inner)}}
    tensors = {"model.language_model.embed_tokens.weight": (8, 4)}
    refusal = wrong_weights(config, tensors)
    assert (refusal is None) == (way == "")
    assert refusal is None or way in refusal.next_step
    assert wrong_weights(config, tensors | {"lm_head.weight": (8, 4)}) is None


def test_an_lfm_2_ties_by_a_key_of_its_own() -> None:
    for name in ("Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm2VlForConditionalGeneration"):
        config = {"architectures": [name], "tie_embedding": False, "tie_word_embeddings": True}
        assert not is_tied(config)
        assert is_tied(config | {"tie_embedding": True, "tie_word_embeddings": False})
        assert tying(config | {"tie_embedding": True}) == "tie_embedding and tie_word_embeddings"


@pytest.mark.parametrize("own", [False, True])
def test_a_head_of_its_own_is_told_where_the_class_alone_ties_it(own: bool, tmp_path: Path) -> None:
    """As in Mistral Small 3.1: the builder would make one of the two matrices do for both."""
    config: dict[str, Any] = {
        "architectures": ["Mistral3ForConditionalGeneration"], "text_config": LLAMA,
        "tie_word_embeddings": None,
    }  # fmt: skip
    head = {"lm_head.weight": floats(*[float(own)] * (96 * 64), kind="BF16")}
    source = write_model(tmp_path / "m", values=head, **config)
    (work := tmp_path / "work").mkdir()
    view, notes = as_told(source, work)
    told = json.loads((view / "config.json").read_text())
    assert told["tie_word_embeddings"] is (False if own else None)
    assert ("a matrix of its own" in " ".join(notes)) is own
    config["tie_word_embeddings"] = True
    said = refusal(write_model(tmp_path / "n", values=head, **config)) if own else ""
    assert not own or "set tie_word_embeddings to false" in said


def test_the_next_step_for_two_heads_names_every_key_that_ties(tmp_path: Path) -> None:
    head = {"lm_head.weight": floats(*[1.0] * (96 * 64), kind="BF16")}
    name = "Qwen2_5_VLForConditionalGeneration"
    inner = LLAMA | {"tie_word_embeddings": True}
    config: dict[str, Any] = {"architectures": [name], "text_config": inner}
    said = refusal(write_model(tmp_path / "m", values=head, **config))
    assert "set tie_word_embeddings of text_config to false" in said


def test_a_language_part_outside_of_text_config_is_refused(tmp_path: Path) -> None:
    """transformers would make one of the class's own size, of tens of gigabytes."""
    for name in ("Qwen3VLForConditionalGeneration", "Mistral3ForConditionalGeneration"):
        said = refusal(write_model(tmp_path / name, architectures=[name]))
        assert "has no text_config" in said
    older = write_model(tmp_path / "m", architectures=["Qwen2_5_VLForConditionalGeneration"])
    taken(older)  # which transformers does read


# --- a matrix that looks like the head -----------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "name"),
    [(128, "model.layers.0.mlp.gate_proj.weight"), (64, "model.layers.0.mlp.down_proj.weight"),
     (32, "model.layers.0.self_attn.k_proj.weight")],
)  # fmt: skip
def test_a_matrix_with_a_row_for_each_token_is_refused(
    vocabulary: int, name: str, tmp_path: Path
) -> None:
    ends = {"model.embed_tokens.weight": (vocabulary, 64), "lm_head.weight": (vocabulary, 64)}
    said = refusal(write_model(tmp_path / "m", TENSORS | ends, vocab_size=vocabulary))
    assert f"would take {name} for the model's head" in said


def test_fused_matrices_are_looked_at_as_they_are() -> None:
    fused = {"model.layers.0.mlp.gate_up_proj.weight": (96, 64)}
    assert head_lookalike(LLAMA, fused) is not None
    part = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": LLAMA}
    assert head_lookalike(part, fused) is not None
    form = {"quantization_config": {"quant_method": "awq"}}
    assert head_lookalike(LLAMA | form, fused) is None
    fp8 = {"quantization_config": {"quant_method": "fp8"}}
    assert head_lookalike(LLAMA | fp8, fused) is not None
    for harmless in ({"a.experts": (4, 96, 64)}, {"a.bias": (96,)}, {"a.qweight": (96, 64)}):
        assert head_lookalike(LLAMA, harmless) is None


# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "config", "said"),
    [
        ("F32", {"dtype": "bfloat16"}, "100% of the weights are F32, config.json says bfloat16"),
        ("F32", {"torch_dtype": "float16"}, "config.json says float16"),
        ("F16", {"torch_dtype": "bfloat16"}, "rounded to bfloat16"),
        ("BF16", {"dtype": "float16"}, "rounded to float16"),
        ("BF16", {"dtype": "float32"}, ""),
        ("F32", {"dtype": "float32"}, ""),
        ("BF16", {"dtype": "bfloat16"}, ""),
        ("F32", {}, ""),
    ],
)
def test_weights_that_the_builder_rounds_are_noted(
    stored: str, config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    notes = " | ".join(taken(write_model(tmp_path / "m", TENSORS, stored, **config)))
    assert said in notes
    assert bool(said) == ("rounded" in notes)


@pytest.mark.parametrize(
    ("name", "whole", "inner", "named"),
    [
        # the builder loads the text part of a Qwen 3.5 by itself
        ("Qwen3_5ForConditionalGeneration", {"dtype": "float32"}, {"torch_dtype": "float16"}, True),
        ("Qwen3_5ForConditionalGeneration", {"dtype": "float32"}, {"dtype": "float16"}, True),
        ("Qwen3_5ForConditionalGeneration", {"dtype": "float16"}, {}, False),
        ("Qwen3VLForConditionalGeneration", {"dtype": "float32"}, {"dtype": "float16"}, False),
        ("Qwen3VLForConditionalGeneration", {}, {"dtype": "float16"}, False),
        ("Qwen3VLForConditionalGeneration", {"torch_dtype": "float16"}, {}, True),
        ("LlamaForCausalLM", {"dtype": "float32", "torch_dtype": "float16"}, {}, False),
    ],
)
def test_the_type_is_that_of_the_part_which_is_loaded(
    name: str, whole: dict[str, str], inner: dict[str, str], named: bool
) -> None:
    config = {"architectures": [name], "text_config": {"vocab_size": 96, **inner}, **whole}
    assert ("rounded to float16" in lost_by_type(config, {"F32": 10})) is named


def test_a_few_weights_of_another_type_are_noted(tmp_path: Path) -> None:
    kinds = {"model.norm.weight": "F32"}
    notes = " | ".join(taken(write_model(tmp_path / "m", TENSORS, kinds, dtype="bfloat16")))
    assert "a few of the weights are F32" in notes
    notes = " | ".join(taken(write_model(tmp_path / "n", TENSORS, kinds)))
    assert "the weights are BF16 and F32, and config.json names no dtype" in notes


# --- files ---------------------------------------------------------------------------------------


def split(folder: Path, parts: tuple[dict[str, Shape], ...], index: dict[str, str]) -> Path:
    """A model in shards, with an index unless that is empty."""
    write_model(folder)
    (folder / "model.safetensors").unlink()
    for number, part in enumerate(parts, 1):
        write_weights(folder / f"model-{number}.safetensors", part)
    if index:
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


HALVES = (dict(list(TENSORS.items())[:9]), dict(list(TENSORS.items())[9:]))
WHERE = {
    name: f"model-{number}.safetensors" for number, part in enumerate(HALVES, 1) for name in part
}


def test_a_model_in_shards_is_taken(tmp_path: Path) -> None:
    taken(split(tmp_path / "m", HALVES, WHERE))


def test_shards_without_an_index_are_refused(tmp_path: Path) -> None:
    said = refusal(split(tmp_path / "m", HALVES, {}))
    assert "model-1.safetensors, and neither model.safetensors nor" in said


def test_an_index_may_name_a_leftover_that_is_not_there(tmp_path: Path) -> None:
    left = {"model.layers.0.self_attn.rotary_emb.inv_freq": "model-1.safetensors"}
    taken(split(tmp_path / "m", HALVES, WHERE | left))
    said = refusal(split(tmp_path / "x", HALVES, WHERE | {"model.x": "model-1.safetensors"}))
    assert "model-1.safetensors is not the file" in said


def test_an_index_that_names_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = refusal(split(tmp_path / "m", HALVES[:1], WHERE))
    assert "model-2.safetensors is missing (1 of 2" in said


def test_a_tensor_that_two_shards_tell_differently_is_refused(tmp_path: Path) -> None:
    norm = "model.norm.weight"
    both = (HALVES[0], HALVES[1] | {norm: TENSORS[norm]})
    folder = split(tmp_path / "m", both, WHERE)
    taken(folder)  # twice the same
    write_weights(folder / "model-2.safetensors", both[1], values={norm: b"\1" * 128})
    assert f"different values for {norm}" in refusal(folder)


def test_a_file_beside_the_model_is_not_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "older.safetensors").mkdir()
    write_weights(folder / "other.safetensors", {"other": (3,)})
    taken(folder)


def test_weights_in_mistrals_own_format_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    said = refusal(folder)
    assert "Mistral's own format alone (consolidated.safetensors)" in said
    assert "convert_mistral_weights_to_hf" in said


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.norm.weight", {"shape": [65]}),
        ("model.norm.weight", {"dtype": "F32"}),
        ("model.layers.1.mlp.down_proj.weight", {"data_offsets": [0, 16384]}),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    weights = write_model(tmp_path / "m") / "model.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[name] |= change
    text = json.dumps(header).encode()
    size = max(each["data_offsets"][1] for each in header.values())
    weights.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    assert "the header of model.safetensors is wrong about" in refusal(weights.parent)


def test_a_folder_without_config_json_is_named_by_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "params.json").write_text("{}")
    assert "has no config.json" in refusal(tmp_path / "m")
    (tmp_path / "m" / "consolidated.00.pth").write_bytes(b"x")
    assert "Mistral's own format alone (consolidated.00.pth)" in refusal(tmp_path / "m")
    (tmp_path / "m" / "consolidated.00.pth").rename(tmp_path / "m" / "q4.gguf")
    assert "give q4.gguf itself with -m" in refusal(tmp_path / "m")


def test_a_pointer_of_git_lfs_is_named_by_the_plan_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / "model.safetensors").write_bytes(pointer)
    assert "is a Git LFS pointer" in refusal(folder)


@pytest.mark.parametrize("value", ["5", "3"])
def test_more_layers_than_the_model_has_are_refused(value: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    said = refusal(folder, f"num_hidden_layers={value}")
    assert f"the model has 2 layers, the extra option num_hidden_layers asks for {value}" in said
    taken(folder, "num_hidden_layers=1")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_of_layers_is_a_number(value: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert "num_hidden_layers cannot be" in refusal(folder, f"num_hidden_layers={value}")


def test_a_matrix_without_values_is_refused_in_any_family() -> None:
    config = {"architectures": ["ChatGLMForConditionalGeneration"], "tie_word_embeddings": False}
    shapes = {"model.embed_tokens.weight": (4, 2), "lm_head.weight": (0, 2)}
    refusal = unsound(config, shapes, {})
    assert refusal is not None
    assert refusal.what == "lm_head.weight holds no values"
    assert "0 x 2" in refusal.why
    assert unsound(config, {**shapes, "lm_head.weight": (4, 2)}, {}) is None
