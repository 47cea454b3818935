"""The keys of config.json that transformers reads, against those that the locked builder reads.

Both are taken from the installed source. A key that one of them reads alone is mended, refused, or
named here with the reason why it changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.builder.support.strays import _READ_BY, WINDOWED
from edgekit.builder.tools.host import HostToolchain
from tests.building import silent

SOURCES = {
    "LlamaForCausalLM": ("llama", "llama"),
    "MistralForCausalLM": ("mistral", "mistral"),
    "Mistral3ForConditionalGeneration": ("ministral3", "mistral"),
    "Qwen2ForCausalLM": ("qwen2", "qwen"),
    "Qwen3ForCausalLM": ("qwen3", "qwen"),
    "GemmaForCausalLM": ("gemma", "gemma"),
    "Gemma2ForCausalLM": ("gemma2", "gemma"),
    "Gemma3ForCausalLM": ("gemma3", "gemma"),
    "PhiForCausalLM": ("phi", "phi"),
    "Phi3ForCausalLM": ("phi3", "phi"),
    "GraniteForCausalLM": ("granite", "granite"),
    "GraniteMoeHybridForCausalLM": ("granitemoehybrid", "granite"),
    "SmolLM3ForCausalLM": ("smollm3", "smollm"),
    "Ernie4_5ForCausalLM": ("ernie4_5", "ernie"),
    "HunYuanDenseV1ForCausalLM": ("hunyuan_v1_dense", "hunyuan"),
    "NemotronForCausalLM": ("nemotron", "nemotron"),
    "Lfm2ForCausalLM": ("lfm2", "lfm2"),
    "Lfm2MoeForCausalLM": ("lfm2_moe", "lfm2"),
    "GptOssForCausalLM": ("gpt_oss", "gptoss"),
    "Qwen3_5ForConditionalGeneration": ("qwen3_5", "qwen"),
    "Qwen3_5MoeForConditionalGeneration": ("qwen3_5_moe", "qwen"),
    "Qwen2_5_VLForConditionalGeneration": ("qwen2_5_vl", "qwen"),
    "Qwen3VLForConditionalGeneration": ("qwen3_vl", "qwen"),
}
"""Architecture -> transformers' module, and the builder's."""

NO_DIFFERENCE = {
    "attention_bias", "mlp_bias", "use_bias",  # seen by the weights; Nemotron's is refused
    "shared_expert_intermediate_size", "fullatt_block_indexes",  # seen by the weights
    "attention_dropout", "resid_pdrop", "embd_pdrop", "initializer_range", "router_aux_loss_coef",
    "output_router_logits",  # of training
    "_attn_implementation", "use_cache", "pad_token_id", "get_text_config",  # of the way it is run
    "layer_norm_eps", "norm_eps",  # mended
    "conv_bias", "qk_layernorm", "swiglu_alpha", "use_bidirectional_attention",
    "position_embedding_type",  # refused
    "use_sliding_window",  # read with the window by the configuration class
    "layers_block_type",  # another name of layer_types
    "attn_logit_softcapping",  # Gemma 3 keeps it and does not use it: left out for the builder
}  # fmt: skip
"""What transformers alone reads."""
OF_PICTURES = re.compile(
    r"image_|video_|vision_|mm_tokens|multimodal_|projector_|spatial_|temporal_|patch_size"
    r"|deepstack_|in_channels|out_hidden_size|num_position_embeddings|depth$|num_heads$|window_size$"
    r"|mamba_|time_step"
)
"""Keys of parts that are not built: pictures, sound, and Mamba layers, which are refused."""
SEARCH = re.compile(
    r"do_sample|temperature|top_[kp]|num_beams|num_return_sequences|(length|repetition|diversity)_"
    r"penalty|no_repeat_ngram_size"
)
"""Defaults of a search, for genai_config.json: `builder/support/generation.py`."""
CHANGES_NOTHING = {
    "num_layers", "multi_query_group_num",  # the second names of keys that every class has
    "linear_conv_kernel_dim", "linear_key_head_dim", "linear_num_key_heads",
    "linear_num_value_heads", "linear_value_head_dim",  # of linear attention alone
    "num_experts_per_tok",  # of experts alone
    "original_max_position_embeddings", "partial_rotary_factor", "rope_theta",  # rotary.py
    "rms_norm_eps",  # read by the configuration class, or mended
    "hidden_act",  # of gpt-oss and the LFM 2s, whose builders set their own
    "top_k_experts", "rope_local_base_freq", "shared_intermediate_size",
    # of the other classes in the builder's file of a family
    "norm_topk_prob", "num_dense_layers", "routed_scaling_factor", "use_expert_bias",
    "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of",
    "checkpoint_policy", "format", "to_onnx_dtypes", "mtp_num_hidden_layers",
}  # fmt: skip
"""What the builder alone reads."""
_OWN_NAMES = {
    "architectures", "get", "items", "keys", "json", "moe", "runtime", "weights", "_name_or_path",
    "peft_type", "text_config", "rope_parameters", "rope_scaling", "quantization_config",
    "max_position_embeddings", "name_or_path",
}  # fmt: skip


@pytest.fixture(scope="module")
def packages() -> Path:
    python = HostToolchain().ready(silent).python
    return next((python.parent.parent / "lib").glob("python3.*/site-packages"))


def keys(*texts: str) -> set[str]:
    found: set[str] = set()
    for text in texts:
        found |= set(re.findall(r"config\.(?:get_text_config\(\)\.)?([a-z_0-9]+)\b", text))
        found |= set(re.findall(r'(?:get|has)attr\((?:self\.)?config, *"([a-z_0-9]+)"', text))
    return found - _OWN_NAMES


def classes(source: str, name: str) -> str:
    """The classes of a builder's file that make this architecture; all where that is not clear."""
    parts = re.split(r"(?m)^(?=class )", source)
    stem = name.partition("For")[0].replace("_", "").lower()
    stems = {"gemma": ("gemma",), "gemma2": ("gemma", "gemma2"), "phi": ("phi",)}.get(
        stem, {"gemma3": ("gemma", "gemma2", "gemma3"), "phi3": ("phi3mini", "phi3minilongrope")}
        .get(stem, ())
    )  # fmt: skip
    if not stems:
        return source
    wanted = {f"class {each}model" for each in stems}
    return "".join(p for p in parts if p.partition("(")[0].lower() in wanted)


@pytest.mark.parametrize("name", SOURCES)
def test_a_key_that_one_of_them_reads_alone_is_known(packages: Path, name: str) -> None:
    module, builder = SOURCES[name]
    models = packages / "transformers" / "models" / module
    builders = packages / "onnxruntime_genai" / "models" / "builders"
    hugging_face = keys((models / f"modeling_{module}.py").read_text("utf-8"))
    own = classes((builders / f"{builder}.py").read_text("utf-8"), name)
    locked = keys((builders / "base.py").read_text("utf-8"), own)
    unread = {k for k in hugging_face - locked - NO_DIFFERENCE if not OF_PICTURES.match(k)}
    assert unread == set(), "transformers reads it, the builder does not"
    fields = keys_of_class((models / f"configuration_{module}.py").read_text("utf-8"))
    stray = {
        key
        for key in locked - hugging_face - fields - CHANGES_NOTHING
        if not SEARCH.match(key) and not OF_PICTURES.match(key)
    }
    handled = {key for key, readers in _READ_BY.items() if name not in readers}
    handled |= {"layer_types"} if name in WINDOWED else set()
    # gpt-oss's configuration class has it as another name of num_local_experts
    handled |= {"num_experts"} if name == "GptOssForCausalLM" else set()
    assert stray - handled == set(), "the builder reads it, transformers does not"


OF_ALL = {
    "is_causal",  # refused where it is off
    "per_layer_config",  # refused
    "head_dim", "hidden_size", "num_attention_heads", "rope_parameters", "default_theta",
    "standardize_rope_params", "validate_rope",  # of the rotary settings
    "attention_chunk_size", "layer_types", "sliding_window", "_attn_implementation",
    "get_text_config",  # of layers that a family's own code asks for
}  # fmt: skip
"""What the code that all families share reads of a configuration."""


@pytest.mark.parametrize("file", ["masking_utils.py", "modeling_rope_utils.py"])
def test_the_code_of_all_families_reads_no_key_that_is_not_known(packages: Path, file: str) -> None:
    """`is_causal` is in no family's file, and makes another model of each."""
    text = (packages / "transformers" / file).read_text("utf-8")
    assert keys(text) - OF_ALL == set()


def keys_of_class(text: str) -> set[str]:
    """The fields of a configuration class."""
    return set(re.findall(r"(?m)^    ([a-zA-Z_0-9]+)\s*:", text))
