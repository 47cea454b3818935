"""The properties that a built model must have, by the options of its build. Pure.

The rules are those of the locked model builder (onnxruntime-genai 0.18.0): `QuantConfig
.from_extra_options` and `default_io_dtype` in `models/quantization/quant_config.py`,
`make_matmul_mixed_precision` and `to_nbits` in `models/builders/base.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgekit.builder.spec import DEFAULT_CONTEXT

_ALIASES: dict[str, tuple[str, dict[str, str]]] = {
    "rtn_last": ("rtn", {"last_matmul": "int8"}),
    "k_quant_last": ("k_quant", {"last_matmul": "int8"}),
    "k_quant_mixed": ("k_quant", {"last_matmul": "int8", "mixed_layers": "int8"}),
    "k_quant_linear": ("k_quant", {"last_matmul": "int8", "linear_attn": "int8"}),
}
_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
_MOE_BITS = {"int2": 2, "int4": 4, "int8": 8, "mxfp4": 4, "nvfp4": 4}
# the builder ignores the quantization_config of these and quantises anew
_REQUANTISED = frozenset({"GptOssForCausalLM", "Mistral3ForConditionalGeneration"})
_LINEAR = re.compile(r"/model/layers\.(\d+)/linear_attn/")


class Checkpoint(msgspec.Struct, frozen=True):
    """A source that is quantised already; its matrices keep their own format.

    Attributes:
        method: `awq`, `gptq`, `olive` …
        bits, block_size: allowed values, several where matrices differ; an empty set allows all.
    """

    method: str
    bits: frozenset[int]
    block_size: frozenset[int]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The required properties of a model, with the builder's defaults filled in.

    Attributes:
        precision, provider: the builder's `-p` and `-e`.
        bits: per weight; 0 for fp16 and fp32.
        method: `default`, `rtn` or `k_quant`.
        placement: group of matrices (`last_matmul`, `mixed_layers`, `linear_attn`) -> its bits.
        placed_by: group -> the option that requested it.
        op_types: operators whose weights are quantised.
        excluded: nodes that stay float.
        io_type, cache_type: element types by their onnx names.
        expert_bits, expert_block: of mixture-of-experts weights; 0 bits where they stay float.
        layers, vocabulary: None where config.json does not say.
        context: cap for `search.max_length`, in tokens.
        has_template: the source has a chat template.
        given: options that the user or the recipe set.
        checkpoint: None unless the source is quantised already.
        vision: precision of the vision part; empty for a model without pictures.
    """

    precision: str
    provider: str
    bits: int
    block_size: int
    accuracy_level: int
    symmetric: bool
    method: str
    placement: dict[str, int]
    placed_by: dict[str, str]
    op_types: tuple[str, ...]
    excluded: tuple[str, ...]
    qdq: bool
    io_type: str
    cache_type: str
    expert_bits: int
    expert_block: int
    layers: int | None
    vocabulary: int | None
    context: int
    filename: str
    has_template: bool
    given: dict[str, str]
    checkpoint: Checkpoint | None
    vision: str = ""

    def placed(self, names: Iterable[str], layers: int) -> dict[str, str]:
        """Node name -> group, for the nodes that belong to a group; the first group wins.

        Args:
            names: node names of the graph's matrices.
            layers: number of layers of the model.
        """
        names = tuple(names)
        found: dict[str, str] = {}
        for group in self.placement:
            wanted = _members(group, layers, names)
            for name in names:
                if name in wanted:
                    found.setdefault(name, group)
        return found


def _members(group: str, layers: int, names: tuple[str, ...]) -> frozenset[str]:
    if group == "last_matmul":
        return frozenset({"/lm_head/MatMul"})
    if group == "mixed_layers":
        eighth = layers / 8
        chosen = [
            i
            for i in range(layers)
            if i < eighth or i >= 7 * eighth or (i - round(eighth)) % 3 == 2
        ]
        parts = ("attn/qkv_proj", "attn/v_proj", "mlp/down_proj")
        return frozenset(f"/model/layers.{i}/{part}/MatMul" for i in chosen for part in parts)
    linear = {match[1] for name in names if (match := _LINEAR.match(name))}
    own = [f"linear_attn/{part}" for part in ("qkv_proj", "z_proj", "out_proj")]
    mlp = [f"mlp/{part}" for part in ("gate_proj", "up_proj", "gate_up_proj", "down_proj")]
    return frozenset(f"/model/layers.{i}/{part}/MatMul" for i in linear for part in own + mlp)


def asked_for(
    precision: str,
    provider: str,
    options: Mapping[str, str],
    config: Mapping[str, Any],
    *,
    context: int = DEFAULT_CONTEXT,
    has_template: bool = False,
    vision: str = "",
) -> Asked:
    """The required properties: the options, completed by the builder's defaults.

    Args:
        options: the builder's options in canonical spelling.
        config: config.json of the Hugging Face folder.
        context: cap for `search.max_length`, in tokens.
        has_template: whether that folder has a chat template.
        vision: precision of the vision part, where the model takes pictures.
    """
    method, placement, placed_by = _placement(options)
    text = config.get("text_config") or config
    io_type = _io_type(precision, provider, options)
    accuracy = "4" if provider in ("cpu", "webgpu") else "0"
    layers = (
        options.get("num_hidden_layers") or text.get("num_hidden_layers") or text.get("num_layers")
    )
    moe = options.get("moe_quant_type") or (
        "int8" if precision == "int8" or options.get("use_8bits_moe") == "true" else "int4"
    )
    quantised = precision in ("int4", "int8")
    return Asked(
        precision=precision,
        provider=provider,
        bits=_BITS.get(precision, 0),
        block_size=int(options.get("block_size", "32")),
        accuracy_level=int(options.get("accuracy_level", accuracy)),
        symmetric=options.get("is_symmetric", "true") == "true",
        method=method,
        placement=placement if quantised else {},
        placed_by=placed_by,
        op_types=tuple(options.get("op_types_to_quantize", "MatMul").split("/")),
        excluded=tuple(n for n in options.get("nodes_to_exclude", "").split(",") if n),
        qdq=options.get("use_qdq") == "true",
        io_type=io_type,
        cache_type=_cache_type(options.get("kv_cache_quant_scheme", "none"), io_type),
        expert_bits=_MOE_BITS.get(moe, 0) if quantised or "moe_quant_type" in options else 0,
        expert_block={"mxfp4": 32, "nvfp4": 16}.get(moe, int(options.get("qmoe_block_size", "32"))),
        layers=int(layers) if layers else None,
        vocabulary=text.get("vocab_size"),
        context=context,
        filename=options.get("filename", "model.onnx"),
        has_template=has_template,
        given=dict(options),
        checkpoint=_checkpoint(config),
        vision=vision,
    )


def _placement(options: Mapping[str, str]) -> tuple[str, dict[str, int], dict[str, str]]:
    """The method; group -> its bits; group -> the option that requested it."""
    algorithm = options.get("algo_config", "default")
    method, implied = _ALIASES.get(algorithm, (algorithm, {}))
    spelled = dict(
        pair.strip().split(":", 1)
        for pair in options.get("matmul_mixed_precision", "").split(",")
        if ":" in pair
    )
    bits = {group: _BITS.get(kind, 0) for group, kind in (implied | spelled).items()}
    asked_by = {
        group: "matmul_mixed_precision" if group in spelled else "algo_config" for group in bits
    }
    return method, bits, asked_by


def _io_type(precision: str, provider: str, options: Mapping[str, str]) -> str:
    quantised = precision in ("int4", "int8")
    if precision == "fp32" or (quantised and provider == "cpu"):
        return "float"
    if provider == "webgpu" and options.get("use_webgpu_fp32") == "true":
        return "float"
    if precision == "int4" and provider == "cuda" and options.get("use_cuda_bf16") == "true":
        return "bfloat16"
    return "float16"


def _cache_type(scheme: str, io_type: str) -> str:
    # two values of four bits share a byte
    kinds = {"int8": "int8", "int4": "uint8", "fp8": "float8e4m3fn"}
    return kinds.get(scheme.lower().split("_")[0], io_type)


def _checkpoint(config: Mapping[str, Any]) -> Checkpoint | None:
    given = config.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not method:
        return None
    if method != "quark" and _REQUANTISED & set(config.get("architectures") or ()):
        return None
    # Olive and GPTQ name single matrices; a group of -1 is a whole row
    overrides = given.get("overrides") or given.get("dynamic") or {}
    all_of = [given, *(o for o in overrides.values() if isinstance(o, dict))]
    groups = [o["group_size"] for o in all_of if "group_size" in o]
    bits = frozenset(int(o["bits"]) for o in all_of if o.get("bits"))
    sizes = frozenset(int(g) for g in groups) if all(g > 0 for g in groups) else frozenset()
    return Checkpoint(str(method), bits, sizes)
