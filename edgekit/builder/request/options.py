"""The model builder's `--extra_options`, checked before anything runs.

Pure. The locked builder (onnxruntime-genai 0.18.0) accepts any key silently, also the `int4_*`
names of nearly every tutorial, which it has ignored since 0.16: such a build looks finished and
has other properties than requested. Here an unknown key is an error that names the right one.
`tests/system/test_build.py` compares these keys with the installed builder's source.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from edgekit.errors import UsageError

BOOLEAN_KEYS = frozenset(
    {
        "dflash2_fuse_gate_up",
        "dflash2_fuse_qkv",
        "disable_qkv_fusion",
        "enable_cuda_fpa_intb_gemm",
        "enable_cuda_graph",
        "enable_dml_graph",
        "enable_webgpu_graph",
        "exclude_embeds",
        "exclude_lm_head",
        "exclude_mtp",
        "fuse_mlp_gate_up",
        "fuse_qk_norm_gqa",
        "fuse_qkv",
        "include_hidden_states",
        "is_symmetric",
        "prune_lm_head",
        "shared_embeddings",
        "use_8bits_moe",
        "use_cuda_bf16",
        "use_device_allocator_for_initializers",
        "use_paged_attention",
        "use_qdq",
        "use_webgpu_fp32",
        "windowed_kv_cache",
    }
)

PATH_KEYS = frozenset({"adapter_path", "dflash2_path", "dspark_path", "kv_cache_scale_file"})
"""Options that name a file or a folder; the content there becomes part of the build id."""

VALUE_KEYS = frozenset(
    {
        "accuracy_level",
        "algo_config",
        "aux_hidden_state_layers",
        "block_size",
        "dflash2_num_draft_tokens",
        "dflash2_precision",
        "dspark_num_draft_tokens",
        "dspark_top_k",
        "filename",
        "gpu_utilization_factor",
        "kv_cache_quant_scheme",
        "kv_cache_rotation",
        "linear_attn_op",
        "matmul_mixed_precision",
        "max_batch_size",
        "max_draft_tokens",
        "max_scheduled_tokens",
        "moe_quant_type",
        "mtp_quant_config",
        "nodes_to_exclude",
        "num_blocks",
        "num_hidden_layers",
        "op_types_to_quantize",
        "paged_block_size",
        "paged_chunk_size",
        "qmoe_block_size",
        "qmoe_weights_prepacked",
        "state_update_capacity",
        "state_window",
    }
)

KNOWN_KEYS = BOOLEAN_KEYS | PATH_KEYS | VALUE_KEYS
"""Every key that edgekit passes on to the builder."""

RESERVED_KEYS: dict[str, str] = {
    "hf_token": "a build reads local files only; log in with HF_TOKEN or `hf auth login`",
    "config_only": "it makes a folder without a model",
    "matmulnbits_weights_prepacked": (
        "it writes weights in the order of one generation of GPUs, and nothing could compare "
        "them with the source; enable_cuda_fpa_intb_gemm has the runtime order them itself"
    ),
    "hf_remote": "code of a model's repository runs only with --trust-remote-code",
}
"""Keys that edgekit does not pass on to the builder -> the reason."""

# Values are checked here because the builder checks them only after it has loaded the weights.
CHOICES: dict[str, tuple[str, ...]] = {
    "accuracy_level": ("0", "1", "2", "3", "4"),
    "algo_config": (
        "default", "rtn", "k_quant", "rtn_last", "k_quant_last", "k_quant_mixed", "k_quant_linear",
    ),
    "block_size": ("16", "32", "64", "128", "256"),
}  # fmt: skip

_RENAMED = {"int4_tied_embeddings": "shared_embeddings"}
_TRUE = frozenset({"true", "True", "1"})
_FALSE = frozenset({"false", "False", "0"})


def parse_options(pairs: Iterable[str]) -> dict[str, str]:
    """The options out of `["KEY=VALUE", …]` of the command line, checked.

    Raises:
        UsageError: a pair lacks `=`, a key is given twice, or `check_options` refuses one.
    """
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key or not value:
            raise UsageError(
                f"the extra option {pair!r} is not KEY=VALUE",
                next_step="write it like -x block_size=32",
            )
        if key in options:
            raise UsageError(f"the extra option {key} is given twice", next_step="give it once")
        options[key] = value
    return check_options(options)


def check_options(options: dict[str, str]) -> dict[str, str]:
    """The same options in canonical spelling (`true` and `false` for booleans).

    Raises:
        UsageError: an unknown, renamed or reserved key, or a value that the builder would refuse
            only later.
    """
    return {key: _checked(key, options[key]) for key in sorted(options)}


def _checked(key: str, value: str) -> str:
    if key in RESERVED_KEYS:
        raise UsageError(
            f"the extra option {key} cannot be set",
            why=RESERVED_KEYS[key],
            next_step="leave it out",
        )
    if key not in KNOWN_KEYS:
        raise _unknown(key)
    if key in BOOLEAN_KEYS:
        if value not in _TRUE | _FALSE:
            raise UsageError(
                f"the extra option {key} must be true or false, not {value}",
                next_step=f"write it like -x {key}=true",
            )
        return "true" if value in _TRUE else "false"
    if key == "num_hidden_layers" and not (value.isascii() and value.isdigit() and int(value)):
        raise UsageError(
            f"the extra option {key} cannot be {value}", next_step="give a number of layers"
        )
    if key in CHOICES and value not in CHOICES[key]:
        raise UsageError(
            f"the extra option {key} cannot be {value}",
            next_step=f"use one of {', '.join(CHOICES[key])}",
        )
    return value


def _unknown(key: str) -> UsageError:
    new = _RENAMED.get(key, key.removeprefix("int4_"))
    if new != key and new in KNOWN_KEYS:
        return UsageError(
            f"the model builder no longer knows the extra option {key}",
            why="it would silently ignore the name and build with the default",
            next_step=f"write {new}",
        )
    close = difflib.get_close_matches(new, KNOWN_KEYS, n=1)
    return UsageError(
        f"the model builder does not know the extra option {key}",
        why="it would silently ignore it",
        next_step=f"did you mean {close[0]}?" if close else "leave it out",
    )
