"""Writes a tiny Llama in another form, and the weights that it holds; toolchain's interpreter.

    python make_input.py loraRANK|gguf-f16|gguf-q4_0|awq|gptq|olive BASE OUT

OUT gets `adapter`, `model.gguf` or `source`, and for all but the first `reference`: a plain
Hugging Face folder with the same numbers. The packed layouts are those that the builder's loaders
undo (onnxruntime_genai/models/loaders/{awq,gptq,olive}.py).
"""

# mypy: disable-error-code="import-not-found"

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import Linear

SEED, GROUP, BITS = 11, 32, 4
# by the names of several families; a model has a few of them
ADAPTED = ("q_proj", "v_proj", "down_proj", "qkv_proj", "gate_up_proj", "fc2", "out_proj", "w2")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def lora(base: Path, out: Path, rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(base)
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, Linear)}
    names = [name for name in ADAPTED if name in linear]
    lora_config = LoraConfig(
        r=rank, target_modules=names, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(model, lora_config).save_pretrained(out / "adapter")


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (out, in), scales and zero points (out, groups) of a matrix, asymmetric."""
    grouped = weight.reshape(len(weight), -1, GROUP)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    # half precision is what such checkpoints store
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(1, 15)
    codes = (grouped / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    return codes.reshape(weight.shape).int(), scales, zeros.int()


def packed(values: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight codes to an int32 along the last axis, `order[i]` at place i."""
    parts = values.reshape(*values.shape[:-1], -1, 8).long()
    words = sum(parts[..., which] << (4 * place) for place, which in enumerate(order))
    return torch.as_tensor(words).to(torch.uint32).view(torch.int32)


def awq(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "qweight": packed(codes.T.contiguous(), AWQ_ORDER),
        "qzeros": packed(zeros.T.contiguous(), AWQ_ORDER),
        "scales": scales.T.half().contiguous(),
    }


def gptq(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "qweight": packed(codes).T.contiguous(),
        # stored one lower, the v1 format
        "qzeros": packed((zeros - 1).T.contiguous()),
        "scales": scales.T.half().contiguous(),
        "g_idx": torch.arange(codes.shape[1], dtype=torch.int32) // GROUP,
    }


def olive(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> dict[str, torch.Tensor]:
    def pairs(values: torch.Tensor) -> torch.Tensor:
        return (values[:, ::2] | values[:, 1::2] << 4).to(torch.uint8)

    return {"qweight": pairs(codes), "qzeros": pairs(zeros), "scales": scales.half()}


def checkpoint(kind: str, base: Path, out: Path) -> None:
    pack = {"awq": awq, "gptq": gptq, "olive": olive}[kind]
    form: dict[str, torch.Tensor] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, weight in load_file(base / "model.safetensors").items():
        plain[name] = form[name] = weight
        if not name.endswith("_proj.weight"):
            continue
        del form[name]
        codes, scales, zeros = quantised(weight)
        spread = [each.repeat_interleave(GROUP, 1) for each in (scales, zeros)]
        plain[name] = (codes - spread[1]) * spread[0]
        stem = name.removesuffix("weight")
        form |= {stem + key: value for key, value in pack(codes, scales, zeros).items()}
    says: dict[str, Any] = {
        "quant_method": kind, "bits": BITS, "group_size": GROUP,
        "awq": {"zero_point": True, "version": "gemm", "modules_to_not_convert": []},
        "gptq": {"desc_act": False, "sym": False, "checkpoint_format": "gptq"},
        "olive": {"symmetric": False, "overrides": {}, "embeds": False, "lm_head": False},
    }  # fmt: skip
    says |= says[kind]
    for other in ("awq", "gptq", "olive"):
        del says[other]
    for folder, tensors in ((out / "source", form), (out / "reference", plain)):
        shutil.copytree(base, folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = out / "source" / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "quantization_config": says}), encoding="utf-8")


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix as llama.cpp keeps a Llama's: rotary pairs side by side."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf(kind: str, base: Path, out: Path) -> None:
    """A GGUF file of a family whose tensors llama.cpp keeps as they are, or of a Llama."""
    import gguf as lib
    from gguf.quants import dequantize, quantize

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    keys = config["num_key_value_heads"]
    file_type = {
        "gguf-f16": lib.GGMLQuantizationType.F16,
        "gguf-q4_0": lib.GGMLQuantizationType.Q4_0,
    }
    family = config["model_type"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer = lib.GGUFWriter(out / "model.gguf", family)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    ids = tokenizer["model"]["vocab"]
    words = sorted(ids, key=ids.get)
    words += [f"<unused{i}>" for i in range(config["vocab_size"] - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([3 if i < 3 or i >= len(ids) else 1 for i in range(len(words))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = lib.get_tensor_name_map(lib.MODEL_ARCH[family.upper()], layers)
    plain = {}
    for name, weight in load_file(base / "model.safetensors").items():
        values = weight.numpy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        count = heads if ".q_proj." in name else keys if ".k_proj." in name else 0
        count = count if family == "llama" else 0  # only its rotary pairs are kept side by side
        if values.ndim == 1:
            writer.add_tensor(target, values)
            plain[name] = weight
            continue
        packed_values = quantize(permuted(values, count) if count else values, file_type[kind])
        writer.add_tensor(target, packed_values, raw_dtype=file_type[kind])
        # quantised row by row, so that rows may be moved before or after
        plain[name] = torch.from_numpy(
            dequantize(quantize(values, file_type[kind]), file_type[kind]).astype(np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.copytree(base, out / "reference")
    save_file(plain, out / "reference" / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    kind, base, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True)
    if kind.startswith("lora"):
        lora(base, out, int(kind.removeprefix("lora")))
    elif kind.startswith("gguf"):
        gguf(kind, base, out)
    else:
        checkpoint(kind, base, out)


if __name__ == "__main__":
    main()
