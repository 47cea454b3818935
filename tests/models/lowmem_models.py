"""Tiny checkpoints for comparing the two routes through the builder. Imported by convert_ways.py.

Dimensions on purpose: 96 and 160 are no multiples of the larger block sizes, so that rows are
padded; query and key differ in heads. `even` models have an even number of blocks in every row:
onnxruntime's k_quant cannot pack the zero points of an odd one.
"""

# mypy: disable-error-code="import-not-found"

from pathlib import Path

import make_phi35
from make_tiny_model import SEED, make_model, make_tokenizer

BLOCK = 32


def _llama(out: Path, *, tied: bool, kind: str, hidden: int = 96, inner: int = 160) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    size = -(-make_tokenizer(out) // BLOCK) * BLOCK
    config = LlamaConfig(
        vocab_size=size, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=9,
        num_attention_heads=hidden // 32, num_key_value_heads=1, head_dim=32,
        max_position_embeddings=256, tie_word_embeddings=tied,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, kind))
    model.save_pretrained(out, max_shard_size="1GB" if tied else "200KB")
    assert (len(list(out.glob("*.safetensors"))) > 1) != tied
    return out


def adapter(base: Path, out: Path) -> Path:
    """A LoRA adapter whose matrices are not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    names = ["q_proj", "k_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=64, target_modules=names, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(out)
    return out


def make_all(folder: Path) -> dict[str, Path]:
    """Name -> folder of every checkpoint, and of the adapter for `even-tied`."""
    even = {"hidden": 128, "inner": 256}
    made = {
        "sharded": _llama(folder / "sharded", tied=False, kind="bfloat16"),
        "even": _llama(folder / "even", tied=False, kind="bfloat16", **even),
        "tied": _llama(folder / "tied", tied=True, kind="float32"),
        "even-tied": _llama(folder / "even-tied", tied=True, kind="float32", **even),
    }
    made["adapter"] = adapter(made["even-tied"], folder / "adapter")
    for family in ("gemma", "qwen2"):
        made[family] = folder / family
        make_model(family, made[family], -(-make_tokenizer(made[family]) // BLOCK) * BLOCK)
    made["phi3"] = folder / "phi3"
    make_phi35.make(made["phi3"], make_phi35.TINY)
    return made
