"""Translates a GGUF header to config.json and the tensors of the later folder. Pure.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
Names as transformers 5.23 maps them (`integrations/ggml.py`); weights become float32.
"""

from __future__ import annotations

import re
import struct
from typing import Any, BinaryIO

from edgekit.builder.plan.tensors import Tensor
from edgekit.errors import UsageError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_BYTES = 1 << 28  # of one value; a vocabulary takes a few MB
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_KEYS = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size", "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    "vocab_size": "vocab_size", "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
}  # fmt: skip
# The architectures that both transformers can dequantise and the builder knows.
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "phi3": "Phi3ForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "nemotron": "NemotronForCausalLM", "lfm2": "Lfm2ForCausalLM",
    "gpt-oss": "GptOssForCausalLM",
}  # fmt: skip
_PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_exps": "mlp.experts.gate_proj", "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj", "ffn_gate_inp": "mlp.gate",
}  # fmt: skip
_TOP = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)\.(weight|bias)$")


def read_header(file: BinaryIO, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors as the builder will see them.

    Args:
        file: positioned at its start; only the header is read.
        name: file name for error messages.

    Raises:
        UsageError: it is not a GGUF file, or it ends within its header.
    """
    try:
        values, shapes = _parse(file, name)
    except (struct.error, UnicodeDecodeError) as error:
        raise UsageError(
            f"the header of {name} cannot be read", why=str(error), next_step="download it again"
        ) from error
    tensors = {
        _name(key): Tensor("F32", shape)
        for key, shape in shapes.items()
        if not key.startswith("rope_")
    }
    return _config(values, tensors), tensors


def _parse(file: BinaryIO, name: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    if file.read(4) != _MAGIC:
        raise UsageError(f"{name} is not a GGUF file")
    version, count, pairs = struct.unpack("<IQQ", file.read(20))
    if version not in _VERSIONS:
        raise UsageError(f"{name} is GGUF of version {version}", why="2 and 3 are read")
    values = {}
    for _ in range(pairs):
        key = _string(file)
        values[key] = _value(file, _number(file, "<I"))
    shapes = {}
    for _ in range(count):
        key = _string(file)
        dimensions = _number(file, "<I")
        # GGUF lists the fastest-varying dimension first
        shapes[key] = tuple(reversed([_number(file, "<Q") for _ in range(dimensions)]))
        _bytes(file, 12)  # type and offset
    return values, shapes


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    return _bytes(file, _number(file, "<Q")).decode("utf-8", "replace")


def _bytes(file: BinaryIO, length: int) -> bytes:
    if length > _MAX_BYTES or len(data := file.read(length)) < length:
        raise struct.error("the file ends too early")
    return data


def _value(file: BinaryIO, kind: int) -> Any:
    """A value; None for an array, because a plan needs no arrays."""
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        if kind not in _SCALARS:
            raise struct.error(f"there is no value type {kind}")
        return _number(file, _SCALARS[kind])
    inner, length = struct.unpack("<IQ", _bytes(file, 12))
    if inner in _SCALARS:
        _bytes(file, length * struct.calcsize(_SCALARS[inner]))
    else:
        for _ in range(length):
            _value(file, inner)
    return None


def _name(key: str) -> str:
    if match := _BLOCK.match(key):
        part = _PARTS.get(match[2], match[2])
        return f"model.layers.{match[1]}.{part}.{match[3]}"
    stem, _, kind = key.rpartition(".")
    return f"{_TOP.get(stem, stem)}.{kind}"


def _config(values: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    kind = str(values.get("general.architecture", ""))
    # llama.cpp calls both architectures llama; transformers looks at the model's name
    mistral = kind == "llama" and "mistral" in str(values.get("general.name", "")).lower()
    config: dict[str, Any] = {
        hugging: values[f"{kind}.{key}"]
        for key, hugging in _KEYS.items()
        if values.get(f"{kind}.{key}") is not None
    }
    # the width of the rotary tables is that of a Llama's heads
    if kind == "llama" and "llama.rope.dimension_count" in values:
        config.setdefault("head_dim", values["llama.rope.dimension_count"])
    return config | {
        "architectures": [_ARCHITECTURES.get("mistral" if mistral else kind, kind)],
        "model_type": kind,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
