"""Tiny Hugging Face folders written by hand, for tests that need no toolchain."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "F8_E4M3": 1}
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
LAYER: dict[str, Shape] = {
    "input_layernorm.weight": (64,),
    "post_attention_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "mlp.gate_proj.weight": (128, 64),
    "mlp.up_proj.weight": (128, 64),
    "mlp.down_proj.weight": (64, 128),
}
TENSORS: dict[str, Shape] = {
    "model.embed_tokens.weight": (96, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (96, 64),
    **{f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
}


def write_weights(
    path: Path,
    tensors: Mapping[str, Shape],
    kinds: Mapping[str, str] | str = "BF16",
    values: Mapping[str, bytes] | None = None,
) -> None:
    """A safetensors file.

    Args:
        kinds: the type of all tensors, or of those named; BF16 for the rest.
        values: bytes of a tensor; the rest is zero.
    """  # fmt: skip
    header: dict[str, Any] = {}
    data = b""
    for name, shape in tensors.items():
        kind = kinds if isinstance(kinds, str) else kinds.get(name, "BF16")
        given = (values or {}).get(name, bytes(BYTES[kind] * math.prod(shape)))
        offsets = [len(data), len(data) + len(given)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        data += given
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_model(
    folder: Path,
    tensors: Mapping[str, Shape] = TENSORS,
    kinds: Mapping[str, str] | str = "BF16",
    values: Mapping[str, bytes] | None = None,
    **config: Any,
) -> Path:
    """A model folder, by default that of a Llama of two layers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | config))
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder / "model.safetensors", tensors, kinds, values)
    return folder


ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False,
    "target_modules": ["q_proj", "down_proj"], "modules_to_save": None,
    "base_model_name_or_path": "some/model",
}  # fmt: skip


def lora(module: str, rows: int, columns: int, rank: int = 4) -> dict[str, Shape]:
    """The two tensors of a module's LoRA."""
    stem = f"base_model.model.{module}"
    return {f"{stem}.lora_A.weight": (rank, columns), f"{stem}.lora_B.weight": (rows, rank)}


LORA = {
    name: shape
    for i in range(2)
    for module, rows, columns in (("self_attn.q_proj", 64, 64), ("mlp.down_proj", 64, 128))
    for name, shape in lora(f"model.layers.{i}.{module}", rows, columns).items()
}


def write_adapter(folder: Path, tensors: Mapping[str, Shape] = LORA, **settings: Any) -> Path:
    """An adapter folder, by default of the Llama's query and down projections."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | settings))
    write_weights(folder / "adapter_model.safetensors", tensors, "F32")
    return folder
