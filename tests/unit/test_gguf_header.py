"""What a GGUF header means: carried over, known to change nothing, or refused by name."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edgekit.builder.plan.ggufnames import unpacked_tensors
from edgekit.builder.plan.shape import shape_of
from edgekit.builder.plan.sizes import data_bytes
from edgekit.builder.request.asked import asked_for
from edgekit.builder.source.ggufparts import read_model
from edgekit.builder.support.architectures import support_of
from edgekit.builder.support.gguf.config import config_of
from edgekit.builder.support.gguf.header import parse_header
from edgekit.builder.support.gguf.sampling import sampling_of
from edgekit.builder.support.gguf.tokens import tokenizer_of
from edgekit.errors import UsageError
from tests.models.gguf_cases import CASES, llama3_factors
from tests.models.gguf_file import gguf_header, write_sparse
from tests.unit.test_plan_models import SMOLLM2_LAYER

TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.token_type": [1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 2,
}
LLAMA = {
    "general.architecture": "llama",
    "general.name": "Some Model",
    "llama.block_count": 1,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
    **TOKENIZER,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (49152, 576),
    "output_norm.weight": (576,),
    "blk.0.attn_norm.weight": (576,),
    "blk.0.attn_q.weight": (576, 576),
    "blk.0.attn_k.weight": (192, 576),
    "blk.0.attn_v.weight": (192, 576),
    "blk.0.attn_output.weight": (576, 576),
    "blk.0.ffn_norm.weight": (576,),
    "blk.0.ffn_gate.weight": (1536, 576),
    "blk.0.ffn_up.weight": (1536, 576),
    "blk.0.ffn_down.weight": (576, 1536),
}
HEADER = gguf_header(LLAMA, SHAPES)


def config(
    folder: Path, change: dict[str, Any], vectors: dict[str, list[float]] | None = None
) -> dict[str, Any]:
    """config.json of a Llama with other keys; None takes a key away."""
    values = {key: value for key, value in (LLAMA | change).items() if value is not None}
    model = read_model(write_sparse(folder / "m.gguf", values, SHAPES, vectors))
    tokenizer_of(model.header)
    return config_of(model.header)


def family(folder: Path, name: str, change: dict[str, Any]) -> dict[str, Any]:
    """config.json of a case of `gguf_cases.py` with other keys."""
    case = CASES[name]
    kind = case["kind"]
    header = {key: value for key, value in (case["header"] | change).items() if value is not None}
    values = {f"{kind}.{key}": value for key, value in header.items()}
    values |= {"general.architecture": kind} | TOKENIZER
    path = write_sparse(
        folder / "m.gguf", values, {"token_embd.weight": (512, 64)}, case.get("vectors")
    )
    return config_of(read_model(path).header)


def test_a_header_is_the_shape_of_what_it_becomes(tmp_path: Path) -> None:
    header = read_model(write_sparse(tmp_path / "m.gguf", LLAMA, SHAPES)).header
    shape = shape_of(config_of(header), unpacked_tensors(header))
    expected = shape_of(SMOLLM2_LAYER, {})
    assert set(shape.matrices) == set(expected.matrices)
    assert shape.tied
    assert shape.head_dim == 64
    assert shape.stored_bytes == 4 * shape.parameters
    wanted = asked_for("int4", "cpu", {"algo_config": "k_quant"}, SMOLLM2_LAYER)
    assert data_bytes(shape, wanted) == data_bytes(expected, wanted)


@pytest.mark.parametrize("length", [0, 3, 10, 40, 200, len(HEADER) - 20, len(HEADER)])
def test_a_cut_file_is_one_error(length: int) -> None:
    with pytest.raises(UsageError, match=r"m\.gguf"):
        parse_header(BytesIO(HEADER[:length]), "m.gguf")


def test_a_file_that_lacks_its_last_byte_is_only_half_there(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.gguf", LLAMA, SHAPES)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(UsageError, match=r"ends before blk\.0\.ffn_down"):
        read_model(path)


@pytest.mark.parametrize("kind", ["rwkv6", "gemma", "gpt-oss", "qwen3moe", "granite", ""])
def test_another_architecture_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"architecture{' is ' if kind else ''}{kind}"):
        config(tmp_path, {"general.architecture": kind or None})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.type", "mmproj", "vision or audio part"),
        ("general.type", "adapter", "LoRA"),
        ("llama.attention.layer_norm_rms_epsilon", None, "missing"),
        ("llama.context_length", None, "missing"),
        ("llama.feed_forward_length", [1536, 768], "from layer to layer"),
        ("llama.vocab_size", 49153, "49152 rows"),
        ("llama.expert_count", 8, "expert_count"),
        ("llama.attention.sliding_window", 4096, "4096 tokens"),
        ("llama.attention.value_length", 32, "values are 32 wide, and keys 64"),
        ("llama.attention.key_length", 128, "9 heads of 128 are 1152 rows"),
        ("llama.rope.dimension_count", 32, "32 of 64 dimensions"),
        ("llama.rope.scaling.type", "longrope", "longrope is not carried over"),
        ("llama.rope.scaling.attn_factor", 1.2, "attn_factor"),
        ("llama.rope.scaling.yarn_log_multiplier", 0.1, "dropped in silence"),
        ("llama.attention.scale", 0.5, "attention.scale"),
        ("llama.attention.causal", False, "attention.causal"),
        ("llama.attn_logit_softcapping", 30.0, "attn_logit_softcapping"),
        ("llama.final_logit_softcapping", 30.0, "final_logit_softcapping"),
        ("llama.logit_scale", 0.25, "logit_scale"),
        ("llama.embedding_scale", 12.0, "embedding_scale"),
        ("llama.residual_scale", 0.22, "residual_scale"),
        ("llama.something_new", 1, "something_new"),
        ("tokenizer.ggml.model", "t5", "t5"),
        ("tokenizer.ggml.pre", "default", "called default"),
        ("tokenizer.ggml.pre", None, "called default"),
        ("tokenizer.ggml.pre", "deepseek-coder", "deepseek-coder"),
        ("tokenizer.ggml.eos_token_id", None, "eos_token_id"),
        ("tokenizer.ggml.token_type", None, "token_type"),
        ("tokenizer.ggml.merges", None, "merges"),
        ("tokenizer.ggml.model", "llama", "scores"),
        ("tokenizer.ggml.add_bos_token", True, "bos_token_id"),
        ("tokenizer.ggml.eot_token_id", 3, "is 3, and it has 3 tokens"),
        ("tokenizer.ggml.token_type", [1], "3 tokens, and 1 entries"),
        ("tokenizer.ggml.remove_extra_whitespaces", True, "remove_extra_whitespaces"),
        ("tokenizer.ggml.precompiled_charsmap", [1, 2], "precompiled_charsmap"),
        ("tokenizer.ggml.suppress_tokens", [1], "suppress_tokens"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_its_name(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        config(tmp_path, {key: value})
    assert words in f"{caught.value.what}; {caught.value.why}"
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.type", "model"),
        ("general.sampling.temp", 0.6),
        ("quantize.imatrix.file", "i.dat"),
        ("llama.attention.sliding_window", 8192),
        ("llama.expert_count", 0),
        ("llama.attention.causal", True),
        ("llama.tensor_data_layout", "Meta AI original pth"),
        ("llama.rope.scaling.finetuned", False),
        ("llama.rope.scaling.type", "none"),
        ("llama.rope.freq_base", 10000.0),
        ("llama.feed_forward_length", [1536]),
        ("llama.attention.value_length", 64),
        ("tokenizer.ggml.add_sep_token", False),
        ("tokenizer.ggml.fim_pre_token_id", 1),
    ],
)
def test_what_changes_nothing_changes_nothing(key: str, value: Any, tmp_path: Path) -> None:
    assert config(tmp_path, {key: value}) == config(tmp_path, {})


def test_a_float32_is_its_shortest_decimal(tmp_path: Path) -> None:
    assert config(tmp_path, {})["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ({}, {}),
        ({"temp": 0.6}, {"do_sample": True, "temperature": 0.6}),
        ({"temp": 0.6, "top_k": 0}, {"do_sample": True, "temperature": 0.6, "top_k": 0}),
        ({"top_p": 0.9, "top_k": -1}, {"do_sample": True, "top_p": 0.9, "top_k": 0}),
        ({"top_k": 20}, {"do_sample": True, "top_k": 20}),
        ({"top_k": 0, "top_p": 1.0}, {}),
        (
            {"temp": 0.0, "top_k": 20, "penalty_repeat": 1.5},
            {"do_sample": False, "repetition_penalty": 1.5},
        ),
        ({"penalty_repeat": 1.5}, {"repetition_penalty": 1.5}),
    ],
)
def test_recommended_sampling_is_carried_over(
    said: dict[str, Any], made: dict[str, Any], tmp_path: Path
) -> None:
    values = LLAMA | {f"general.sampling.{key}": value for key, value in said.items()}
    header = read_model(write_sparse(tmp_path / "m.gguf", values, SHAPES)).header
    assert sampling_of(header) == pytest.approx(made)


@pytest.mark.parametrize("key", ["eot", "eom"])
def test_every_end_of_the_header_is_an_end(key: str, tmp_path: Path) -> None:
    made = config(tmp_path, {f"tokenizer.ggml.{key}_token_id": 1})
    assert made["eos_token_id"] == [2, 1]


@pytest.mark.parametrize("factor", [2.0, 8.0, 32.0])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    ("low", "high", "original"), [(1.0, 4.0, 8192), (1.0, 3.0, 4096), (2.0, 16.0, 2048)]
)
def test_rope_freqs_are_the_scaling_of_llama_3(
    factor: float, theta: float, low: float, high: float, original: int, tmp_path: Path
) -> None:
    said = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": original, "rope_theta": theta,
    }  # fmt: skip
    factors = llama3_factors(said, 64)
    made = config(tmp_path, {"llama.rope.freq_base": theta}, {"rope_freqs.weight": factors})[
        "rope_parameters"
    ]
    assert made["rope_type"] == "llama3"
    assert llama3_factors(made, 64) == pytest.approx(factors, rel=1e-4)


def test_rope_freqs_of_one_scale_nothing(tmp_path: Path) -> None:
    made = config(tmp_path, {}, {"rope_freqs.weight": [1.0] * 32})
    assert made["rope_parameters"] == {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("factors", "change", "words"),
    [
        ([1.0, *[8.0] * 30, 7.0], {}, "not those of Llama 3"),
        ([1.0] * 16, {}, "16 values in rope_freqs.weight"),
        ([1.0] * 31 + [8.0], {"llama.rope.scaling.type": "linear"}, "beside rope_freqs"),
    ],
)
def test_other_rope_freqs_are_refused(
    factors: list[float], change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        config(tmp_path, change, {"rope_freqs.weight": factors})
    assert words in f"{caught.value.what}; {caught.value.why}"


def test_longrope_of_a_llama_is_refused(tmp_path: Path) -> None:
    vectors = {f"rope_factors_{name}.weight": [1.0] * 32 for name in ("long", "short")}
    change = {"llama.rope.scaling.original_context_length": 4096}
    with pytest.raises(UsageError, match="LlamaForCausalLM has no longrope"):
        config(tmp_path, change, vectors)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("phi3-longrope-window", {"rope.scaling.attn_factor": 1.0001}, "follows from the lengths"),
        ("phi3-longrope-window", {"rope.scaling.original_context_length": 0}, "needs it"),
        ("phi3-longrope-window", {"rope.dimension_count": 16}, "6 values"),
        ("gemma3-linear", {"attention.sliding_window_pattern": [True]}, "sliding_window_pattern"),
        ("gemma3-linear", {"attention.sliding_window": 0}, "sliding_window"),
        ("gemma2", {"attention.key_length_swa": 16}, "windowed layers are 16 wide"),
        ("lfm2", {"attention.head_count_kv": [0, 2, 0]}, "3 of 4 layers"),
        ("lfm2", {"attention.head_count_kv": 2}, "no list of layers"),
        ("nemotron", {"attention.sliding_window": 8}, "8 tokens"),
    ],
)
def test_a_family_refuses_what_it_has_no_place_for(
    name: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        family(tmp_path, name, change)
    assert words in f"{caught.value.what}; {caught.value.why}"


def test_a_scaling_that_the_builder_lacks_is_known_from_the_header(tmp_path: Path) -> None:
    refusal = support_of(family(tmp_path, "gemma3-linear", {}), "int4", "cpu").refusal
    assert refusal
    assert "scal" in f"{refusal.what} {refusal.why}"


def test_a_scaling_that_the_builder_is_told_is_taken(tmp_path: Path) -> None:
    made = family(tmp_path, "llama-linear-and-biases", {})
    assert not support_of(made, "int4", "cpu").refusal


def test_the_layers_with_windows_are_those_of_the_header(tmp_path: Path) -> None:
    made = family(tmp_path, "gemma2", {"attention.sliding_window_pattern": [False, True]})
    assert made["layer_types"] == ["full_attention", "sliding_attention"]
    assert family(tmp_path, "gemma3-linear", {})["layer_types"] == [
        *["sliding_attention"] * 5, "full_attention", "sliding_attention",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3-linear", 62)])
def test_the_largest_gemmas_scale_by_a_share_of_the_embedding(
    name: str, layers: int, tmp_path: Path
) -> None:
    assert family(tmp_path, name, {"block_count": layers})["query_pre_attn_scalar"] == 16
    assert family(tmp_path, name, {"attention.scale": 0.125})["query_pre_attn_scalar"] == 64


@pytest.mark.parametrize(
    ("pre", "merges", "bos"),
    [("llama-bpe", True, True), ("tekken", True, True), ("qwen2", False, False),
     ("gpt-2", False, False), ("smollm", False, False)],
)  # fmt: skip
def test_the_name_of_a_tokenizer_says_its_rules(
    pre: str, merges: bool, bos: bool, tmp_path: Path
) -> None:
    values = LLAMA | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": 1}
    path = write_sparse(tmp_path / "m.gguf", values, SHAPES)
    made = tokenizer_of(read_model(path).header)
    assert (made.ignore_merges, made.add_bos) == (merges, bos)
    assert (made.normalizer == {"type": "NFC"}) == (pre == "qwen2")
