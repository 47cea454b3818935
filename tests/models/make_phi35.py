"""Makes a checkpoint in the exact shape of Phi-3.5-mini-instruct with random weights.

    python make_phi35.py OUT [--layers N] [--tiny]

Run with the toolchain's interpreter. Always the same bytes: every tensor has a seed of its own.
A shard holds one layer, and no more than one tensor is in memory in float32: 32 layers are 7.6 GB
on disk. `config.json` is written as Microsoft's is, not as transformers 5 would save it: the
builder does not read the latter. `--tiny` has the same structure in small dimensions.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_tiny_model import SEED, make_tokenizer

DEVIATION = 0.02  # of the weights: transformers' initializer_range


@dataclass(frozen=True)
class Shape:
    """Dimensions, by their names in config.json (source: microsoft/Phi-3.5-mini-instruct)."""

    hidden: int = 3072
    intermediate: int = 8192
    heads: int = 32
    vocabulary: int = 32064
    context: int = 131072
    original_context: int = 4096
    layers: int = 32

    def config(self) -> dict[str, Any]:
        """config.json."""
        pairs = self.hidden // self.heads // 2
        long_factor = [1 + 63 * i / max(pairs - 1, 1) for i in range(pairs)]
        return {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "original_max_position_embeddings": self.original_context,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + i / 100 for i in range(pairs)],
                "long_factor": long_factor,
            },
            "sliding_window": self.context * 2,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-05,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        }

    def shards(self) -> Iterator[dict[str, tuple[int, ...]]]:
        """Name -> shape of the tensors of each shard; one dimension is a norm."""
        yield {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            names: dict[str, tuple[int, ...]] = {
                "self_attn.qkv_proj": (3 * self.hidden, self.hidden),
                "self_attn.o_proj": (self.hidden, self.hidden),
                "mlp.gate_up_proj": (2 * self.intermediate, self.hidden),
                "mlp.down_proj": (self.hidden, self.intermediate),
                "input_layernorm": (self.hidden,),
                "post_attention_layernorm": (self.hidden,),
            }
            yield {f"model.layers.{layer}.{name}.weight": size for name, size in names.items()}
        yield {
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocabulary, self.hidden),
        }


TINY = Shape(64, 128, 2, 512, 256, 64, 2)


def make(out: Path, shape: Shape) -> None:
    """Writes the folder."""
    import torch
    from safetensors.torch import save_file

    make_tokenizer(out)
    (out / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    seed, total, where = SEED, 0, {}
    for number, sizes in enumerate(shape.shards(), start=1):
        tensors = {}
        for name, size in sizes.items():
            seed += 1
            values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
            tensors[name] = (1 + values / 10 if len(size) == 1 else values * DEVIATION).bfloat16()
            total += tensors[name].nbytes
        file = f"model-{number:05}-of-{shape.layers + 2:05}.safetensors"
        save_file(tensors, out / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(sizes, file))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    shape = TINY if args.tiny else Shape()
    layers = args.layers or shape.layers
    make(args.out, Shape(**{**shape.__dict__, "layers": layers}))


if __name__ == "__main__":
    main()
