"""Plans, from shapes alone: sizes to the byte, memory, devices, refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgekit.builder.plan.cost import route_costs
from edgekit.builder.plan.plan import Machine, Plan, PlanCandidate, SourceSizes, make_plan
from edgekit.builder.plan.profiles import PROFILES, on_device
from edgekit.builder.plan.shape import ModelShape, shape_of
from edgekit.builder.plan.sizes import (
    data_bytes,
    graph_bytes,
    inexact,
    kv_bytes_per_token,
    read_bytes_per_token,
)
from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.request.asked import Asked, asked_for
from edgekit.builder.request.recipe import ladder, recipe_named
from edgekit.builder.support.architectures import support_of
from edgekit.cli.model.plan import plan_text
from edgekit.errors import UsageError

GIB = 2**30
MACHINE = Machine(
    memory_bytes=8 * GIB, disk_bytes=10**12, cache_bytes=10**12, same_disk=True, cpus=2
)
SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}


def phi35(layers: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Phi-3.5-mini in bfloat16, with so many layers."""
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": layers,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [], "long_factor": []},
        "sliding_window": 262144,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32064, 3072),
        "model.norm.weight": (3072,),
        "lm_head.weight": (32064, 3072),
    }
    for index in range(layers):
        shapes |= {
            f"model.layers.{index}.self_attn.qkv_proj.weight": (9216, 3072),
            f"model.layers.{index}.self_attn.o_proj.weight": (3072, 3072),
            f"model.layers.{index}.mlp.gate_up_proj.weight": (16384, 3072),
            f"model.layers.{index}.mlp.down_proj.weight": (3072, 8192),
            f"model.layers.{index}.input_layernorm.weight": (3072,),
            f"model.layers.{index}.post_attention_layernorm.weight": (3072,),
        }
    return config, {name: Tensor("BF16", shape) for name, shape in shapes.items()}


def asked(config: dict[str, Any], recipe: str, **options: str) -> Asked:
    made = recipe_named(recipe)
    return asked_for(made.precision, "cpu", {**made.options, **options}, config)


def smollm2() -> ModelShape:
    """A shape without headers: config.json of a Llama is enough."""
    return shape_of(SMOLLM2, {})


@pytest.mark.parametrize(
    ("layers", "recipe", "expected"),
    [
        (4, "plain", 738_791_424),
        (4, "k-quant-mixed", 853_346_304),
        (32, "plain", 2_721_288_192),
        (32, "k-quant-mixed", 3_271_428_096),
    ],
)
def test_data_of_phi_35_is_as_it_was_built(layers: int, recipe: str, expected: int) -> None:
    config, tensors = phi35(layers)
    shape = shape_of(config, tensors)
    assert data_bytes(shape, asked(config, recipe)) == expected
    assert inexact(shape, asked(config, recipe)) == ""


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("plain", 86_287_616),
        ("rtn", 86_287_616),
        ("k-quant", 88_388_864),
        ("plain-head8", 100_443_392),
        ("k-quant-head8", 102_987_008),
        ("plain-mixed", 110_507_264),
        ("k-quant-mixed", 113_365_376),
        ("int8", 266_773_760),
    ],
)
def test_data_of_smollm2_is_as_it_was_built(recipe: str, expected: int) -> None:
    assert data_bytes(smollm2(), asked(SMOLLM2, recipe)) == expected


def test_kv_cache_per_token() -> None:
    config, tensors = phi35(32)
    assert kv_bytes_per_token(shape_of(config, tensors), asked(config, "plain")) == 786_432
    config, tensors = phi35(4)
    assert kv_bytes_per_token(shape_of(config, tensors), asked(config, "plain")) == 98_304
    assert kv_bytes_per_token(smollm2(), asked(SMOLLM2, "plain")) == 46_080
    small = asked(SMOLLM2, "plain", kv_cache_quant_scheme="int4_per_channel")
    assert kv_bytes_per_token(smollm2(), small) == 46_080 // 8


def test_layers_that_keep_no_keys_take_no_cache() -> None:
    mixed = SMOLLM2 | {"layer_types": ["conv", "full_attention", "conv"] * 10}
    assert kv_bytes_per_token(shape_of(mixed, {}), asked(mixed, "plain")) == 46_080 // 3


def test_graph_holds_the_tables_of_long_rope() -> None:
    config, tensors = phi35(32)
    # 4 bytes x cosine and sine x (131072 + 4096) rows x 48
    tables = 4 * 2 * 135_168 * 48
    size = graph_bytes(shape_of(config, tensors), asked(config, "plain"))
    assert tables < size < tables + 300_000
    assert graph_bytes(smollm2(), asked(SMOLLM2, "plain")) == pytest.approx(225_629, rel=0.02)


# GiB, measured
@pytest.mark.parametrize(
    ("layers", "recipe", "low", "stock"),
    [(4, "plain", 1.31, 5.37), (4, "k-quant-mixed", 1.55, None), (32, "plain", 1.32, None)],
)
def test_memory_is_within_a_fifth_of_what_was_measured(
    layers: int, recipe: str, low: float, stock: float | None
) -> None:
    config, tensors = phi35(layers)
    ours, theirs = route_costs(shape_of(config, tensors), asked(config, recipe), 0)
    assert ours.peak_rss_bytes / GIB == pytest.approx(low, rel=0.2)
    if stock:
        assert theirs.peak_rss_bytes / GIB == pytest.approx(stock, rel=0.2)
    assert ours.needs_bytes < theirs.needs_bytes


@pytest.mark.parametrize(("recipe", "stock"), [("plain", 1.70), ("k-quant", 2.60), ("int8", 1.91)])
def test_memory_of_smollm2_is_within_a_fifth_of_what_was_measured(
    recipe: str, stock: float
) -> None:
    shape = msgspec.structs.replace(smollm2(), stored_bytes=4 * 134_515_008)
    _, theirs = route_costs(shape, asked(SMOLLM2, recipe), 0)
    assert theirs.peak_rss_bytes / GIB == pytest.approx(stock, rel=0.2)


def test_time_is_about_what_was_measured() -> None:
    config, tensors = phi35(32)
    shape = shape_of(config, tensors)
    ours, theirs = route_costs(shape, asked(config, "plain"), 0)
    assert (ours.cpu_seconds, theirs.cpu_seconds) == pytest.approx((73.7, 65.6), rel=0.2)
    searched, _ = route_costs(shape, asked(config, "k-quant-mixed"), 0)
    assert searched.cpu_seconds == pytest.approx(186.5, rel=0.2)
    assert searched.seconds < searched.cpu_seconds


def test_disk_is_output_and_spool() -> None:
    config, tensors = phi35(32)
    shape, wanted = shape_of(config, tensors), asked(config, "plain")
    ours, theirs = route_costs(shape, wanted, data_bytes(shape, wanted))
    assert theirs.disk_bytes == 2_721_288_192
    assert ours.disk_bytes == pytest.approx(2.7e9 + 2.3e9, rel=0.02)


def test_phi_4_of_14_b_is_planned_to_fit_8_gib() -> None:
    # microsoft/phi-4: config.json alone says its shape; in the form of Phi-3 its rows are fused
    config = phi35(40)[0] | {
        "hidden_size": 5120, "intermediate_size": 17920, "max_position_embeddings": 16384,
        "num_attention_heads": 40, "num_key_value_heads": 10, "rope_scaling": None,
        "sliding_window": None, "torch_dtype": "bfloat16", "vocab_size": 100352,
    }  # fmt: skip
    shape = shape_of(config, {})
    assert shape.parameters == pytest.approx(14.66e9, rel=0.01)
    for recipe in ("plain", "k-quant-mixed"):
        low, stock = route_costs(shape, asked(config, recipe), 0)
        assert low.needs_bytes < 8 * 2**30
        assert stock.needs_bytes > 64 * 2**30


def test_a_float_model_takes_the_same_both_ways() -> None:
    config, tensors = phi35(32)
    wanted = asked_for("fp16", "cpu", {}, config)
    ours, theirs = route_costs(shape_of(config, tensors), wanted, 0)
    assert ours.needs_bytes == theirs.needs_bytes


def test_parameters_and_layers_that_are_left_out() -> None:
    config, tensors = phi35(32)
    assert shape_of(config, tensors).parameters == 3_821_079_552
    assert smollm2().parameters == 134_515_008
    cut = shape_of(config, tensors, layers=4)
    assert cut == shape_of(config | {"num_hidden_layers": 4}, phi35(4)[1])


def test_only_the_language_part_of_a_checkpoint_counts() -> None:
    config, tensors = phi35(4)
    foreign = {
        "model.vision_embed_tokens.img_processor.layers.0.fc1.weight": Tensor("BF16", (999, 99)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": Tensor("F32", (48,)),
        "model.layers.4.mlp.down_proj.weight": Tensor("BF16", (3072, 8192)),  # a head's own layer
    }
    assert shape_of(config, tensors | foreign) == shape_of(config, tensors)


def test_separate_projections_become_one_matrix() -> None:
    separate = {
        f"model.layers.0.self_attn.{part}_proj.weight": Tensor("F32", (rows, 576))
        for part, rows in (("q", 576), ("k", 192), ("v", 192))
    }
    shape = shape_of(SMOLLM2 | {"num_hidden_layers": 1}, separate)
    assert [(m.node, m.rows) for m in shape.matrices] == [
        ("/model/layers.0/attn/qkv_proj/MatMul", 960),
        ("/lm_head/MatMul", 49152),
    ]


@pytest.mark.parametrize("gone", ["num_attention_heads", "max_position_embeddings", "hidden_size"])
def test_a_config_that_does_not_say_enough_is_refused_by_name(gone: str) -> None:
    config = {key: value for key, value in SMOLLM2.items() if key != gone}
    with pytest.raises(UsageError, match=gone):
        shape_of(config, {})


def test_headers_say_what_config_leaves_out() -> None:
    config, tensors = phi35(4)
    for key in ("num_hidden_layers", "vocab_size", "hidden_size", "tie_word_embeddings"):
        del config[key]
    assert shape_of(config, tensors) == shape_of(*phi35(4))


def test_the_whole_models_word_on_tied_embeddings_comes_first() -> None:
    part = {**SMOLLM2, "tie_word_embeddings": False}
    whole = {"architectures": ["Qwen3VLForConditionalGeneration"], "text_config": part}
    assert not shape_of(whole, {}).tied
    assert shape_of(whole | {"tie_word_embeddings": True}, {}).tied
    whole["text_config"] = {**part, "tie_word_embeddings": True}
    assert not shape_of(whole, {}).tied
    assert not shape_of(whole | {"tie_word_embeddings": False}, {}).tied
    # a class that ties where config.json says nothing, and a head that is stored all the same
    whole = {"architectures": ["Mistral3ForConditionalGeneration"], "text_config": part}
    assert shape_of(whole, {}).tied
    size = part["hidden_size"]
    tables = {"embed_tokens.weight": (part["vocab_size"], size), "norm.weight": (size,)}
    tensors = {f"language_model.model.{name}": Tensor("F16", it) for name, it in tables.items()}
    tensors["language_model.model.layers.0.mlp.up_proj.weight"] = Tensor("F16", (size, size))
    assert shape_of(whole, tensors).tied
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"]
    assert not shape_of(whole, tensors).tied


def test_a_mixture_reads_its_active_experts_only() -> None:
    config = SMOLLM2 | {"num_local_experts": 8, "num_experts_per_tok": 2}
    shape = shape_of(config, {})
    wanted = asked(config, "plain")
    dense = shape_of(SMOLLM2, {})
    assert data_bytes(shape, wanted) > 4 * data_bytes(dense, wanted)
    assert read_bytes_per_token(shape, wanted) < 2 * read_bytes_per_token(dense, wanted)
    assert "mixture" in inexact(shape_of(config, phi35(1)[1]), wanted)


def test_a_device_gets_what_its_memory_and_bandwidth_allow() -> None:
    pi = next(each for each in PROFILES if each.name == "Raspberry Pi 5, 8 GB")
    got = on_device(131072, 2_775_000_000, 2_330_000_000, 786_432, pi)
    assert got.ceiling == pytest.approx(7.3, abs=0.1)
    assert got.likely == pytest.approx((4.0, 5.5), abs=0.1)
    assert got.fits
    assert got.context % 256 == 0
    needed = 2_775_000_000 * 1.25 + (300 << 20) + got.context * 786_432
    assert needed <= pi.usable_bytes < needed + 257 * 786_432


def test_a_device_that_is_too_small_is_said_to_be() -> None:
    pi = PROFILES[0]
    # a window that does not fit leaves no context at all
    assert on_device(131072, 2_775_000_000, 2_330_000_000, 786_432, pi, 131072).context == 0
    got = on_device(131072, 3_300_000_000, 2_900_000_000, 786_432, pi)
    assert not got.fits
    assert got.context == 0


# --- the plan ------------------------------------------------------------------------------------


def plan(
    recipe: str = "plain",
    *,
    machine: Machine = MACHINE,
    route: str = "auto",
    source: SourceSizes = SourceSizes("phi"),  # noqa: B008 (frozen)
    layers: int = 32,
) -> Plan:
    config, tensors = phi35(layers)
    recipes = ladder(config) if recipe == "auto" else (recipe_named(recipe),)
    wanted = [PlanCandidate(each.name, asked(config, each.name)) for each in recipes]
    found = support_of(config, "int4", "cpu")
    return make_plan(source, found, shape_of(config, tensors), wanted, machine, route=route)


def test_a_plan_takes_the_low_memory_path_first() -> None:
    made = plan()
    assert made.supported
    assert made.rows[0].route == "low-memory"
    assert made.rows[0].exact
    assert plan(route="stock", machine=replace_memory(64)).rows[0].route == "stock"


def replace_memory(gib: float) -> Machine:
    return Machine(int(gib * GIB), 10**12, 10**12, same_disk=True, cpus=2)


def test_too_little_memory_is_refused_with_what_to_do() -> None:
    stock = plan(route="stock")
    assert not stock.supported
    assert "leave --path out" in stock.rows[0].refusals[0].next_step
    assert plan(machine=replace_memory(1)).rows[0].route == ""
    gguf = plan(source=SourceSizes("x.gguf", unpacked_bytes=4 * 3_821_079_552))
    assert not gguf.supported


def test_too_little_disk_is_refused_with_how_much_it_takes() -> None:
    def refused(disk: int, cache: int, download: int, *, same: bool) -> list[str]:
        machine = Machine(8 * GIB, disk, cache, same_disk=same, cpus=2)
        made = plan(machine=machine, source=SourceSizes("phi", download_bytes=download))
        return [each.what for each in made.rows[0].refusals]

    assert refused(6 * 10**9, 8 * 10**9, 7_640_000_000, same=False) == []
    assert refused(4 * 10**9, 8 * 10**9, 7_640_000_000, same=False) == [
        "there is not enough disk for the output"
    ]
    assert refused(6 * 10**9, 7 * 10**9, 7_640_000_000, same=False) == [
        "there is not enough disk for the cache"
    ]
    assert refused(8 * 10**9, 8 * 10**9, 7_640_000_000, same=True) == [
        "there is not enough disk for download and output"
    ]


def test_auto_has_a_row_for_every_rung() -> None:
    made = plan("auto")
    assert [row.recipe for row in made.rows] == [
        "plain", "k-quant", "k-quant-head8", "k-quant-mixed", "int8"
    ]  # fmt: skip
    sizes = [row.data_bytes for row in made.rows]
    assert sizes == sorted(sizes)


def test_k_quant_is_refused_where_onnxruntime_fails_on_it() -> None:
    odd = SMOLLM2 | {"intermediate_size": 144, "tie_word_embeddings": False}
    shape, found = shape_of(odd, {}), support_of(odd, "int4", "cpu")
    wanted = [PlanCandidate(name, asked(odd, name)) for name in ("plain", "k-quant", "int8")]
    made = make_plan(SourceSizes("odd"), found, shape, wanted, MACHINE)
    refused = {row.recipe: [each.what for each in row.refusals] for row in made.rows}
    assert refused == {
        "plain": [],
        "k-quant": ["k_quant cannot quantise /model/layers.0/mlp/down_proj/MatMul"],
        "int8": [],
    }


def test_a_refused_model_has_no_rows() -> None:
    made = make_plan(SourceSizes("m"), support_of({}, "int4", "cpu"), None, (), MACHINE)
    assert not made.supported
    assert made.rows == ()
    assert "CANNOT be built" in plan_text(made)
    assert "next: " in plan_text(made)


def test_the_text_says_what_matters_in_lines_that_fit() -> None:
    text = plan_text(plan())
    for part in ("3.82 B weights", "can be built", "2.77 GB", "low-memory", "786.4 kB"):
        assert part in text
    pi = next(line for line in text.splitlines() if line.startswith("Raspberry Pi 5, 8 GB"))
    assert "of 7.3" in pi
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "does not fit" in plan_text(plan("int8"))
    auto = plan_text(plan("auto", machine=replace_memory(1)))
    assert max(len(line) for line in auto.splitlines()) <= 110
    assert auto.count("not enough memory") == 1
    assert "cannot be built here: plain, k-quant, k-quant-head8, k-quant-mixed, int8" in auto
