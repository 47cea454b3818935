"""The tensors of the folder that a GGUF file becomes. Pure.

Names as transformers 5.23 maps them (`integrations/ggml.py`); weights become float32.
"""

from __future__ import annotations

import re

from edgekit.builder.plan.tensors import Tensor
from edgekit.builder.support.gguf.header import ROTARY, GgufHeader

_PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_TOP = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)\.(weight|bias)$")


def unpacked_tensors(header: GgufHeader) -> dict[str, Tensor]:
    """Name -> type and shape of the tensors that a build will see."""
    return {
        _name(key): Tensor("F32", tensor.shape)
        for key, tensor in header.tensors.items()
        if key not in ROTARY
    }


def _name(key: str) -> str:
    if match := _BLOCK.match(key):
        part = _PARTS.get(match[2], match[2])
        return f"model.layers.{match[1]}.{part}.{match[3]}"
    stem, _, kind = key.rpartition(".")
    return f"{_TOP.get(stem, stem)}.{kind}"
