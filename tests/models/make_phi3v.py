"""Makes a checkpoint in the exact shape of Phi-3.5-vision-instruct with random weights.

    python make_phi3v.py OUT [--real-vision] [--names microsoft|transformers]
        [--table outer|inner|both] [--single]

Run with the toolchain's interpreter. Always the same bytes: every tensor has a seed of its own. The
text part and CLIP are tiny, but a crop has 336 pixels on a side and a patch 14. `--real-vision`
makes CLIP as large as the real one, beside the same small text part. `--names transformers` leaves
CLIP's level `vision_model.` out, as transformers 5 saves it. `--table` says where the embedding
lies: as `model.embed_tokens`, as `wte` within the vision part, or in both places. `--single` writes
one file of weights without an index.

The folder also holds the repository's code that config.json names. It ends whoever runs it.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_phi35 import Shape
from make_tiny_model import SEED, TEXT

VOCABULARY = 512
TEXT_SHAPE = Shape(
    hidden=64, intermediate=128, heads=2, vocabulary=VOCABULARY, context=8192,
    original_context=4096, layers=2,
)  # fmt: skip
VISION = "model.vision_embed_tokens."
SPECIAL = (
    "<|endoftext|>",
    "<s>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|image|>",
)
# microsoft/Phi-3.5-vision-instruct's own
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != "
    "'assistant' %}{{- '<|assistant|>\n' -}}{% endif %}"
)
TABLES = (
    "_GN",
    ".embed_tokens.weight",
    "position_embedding.weight",
)  # their rows are added or taken
PROCESSOR = {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"}
REPOSITORY_CODE = 'raise SystemExit("the repository\'s code ran")\n'


@dataclass(frozen=True)
class Clip:
    """Dimensions of the vision part (source of the first ones: openai/clip-vit-large-patch14-336).

    Attributes:
        inner: width within an MLP.
    """

    width: int = 1024
    inner: int = 4096
    layers: int = 24


TINY_CLIP = Clip(128, 256, 3)


def config(clip: Clip) -> dict[str, Any]:
    """config.json, as Microsoft's is."""
    made: dict[str, Any] = TEXT_SHAPE.config()
    made["rope_scaling"]["type"] = "su"
    return made | {
        "architectures": ["Phi3VForCausalLM"],
        "model_type": "phi3_v",
        "_attn_implementation": "flash_attention_2",
        "auto_map": {
            "AutoConfig": "configuration_phi3_v.Phi3VConfig",
            "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        },
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "img_processor": {
            "image_dim_out": clip.width,
            "model_name": "openai/clip-vit-large-patch14-336",
            "name": "clip_vision_model",
            "num_img_tokens": 144,
        },
        "eos_token_id": SPECIAL.index("<|end|>"),
    }


def vision_shards(clip: Clip, hidden: int, level: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """Name -> shape of the tensors of each shard of the vision part.

    Args:
        level: `vision_model.`, or nothing.
    """
    tower, width = f"{VISION}img_processor.{level}", clip.width

    def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    yield {
        f"{tower}embeddings.class_embedding": (width,),
        f"{tower}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{tower}embeddings.position_embedding.weight": (577, width),
        **affine(f"{tower}pre_layrnorm", width),
        **affine(f"{tower}post_layernorm", width),
        f"{VISION}glb_GN": (1, 1, 4 * width),
        f"{VISION}sub_GN": (1, 1, 1, 4 * width),
        **affine(f"{VISION}img_projection.0", hidden, 4 * width),
        **affine(f"{VISION}img_projection.2", hidden, hidden),
    }
    for layer in range(clip.layers):
        at = f"{tower}encoder.layers.{layer}"
        yield {
            **affine(f"{at}.self_attn.q_proj", width, width),
            **affine(f"{at}.self_attn.k_proj", width, width),
            **affine(f"{at}.self_attn.v_proj", width, width),
            **affine(f"{at}.self_attn.out_proj", width, width),
            **affine(f"{at}.mlp.fc1", clip.inner, width),
            **affine(f"{at}.mlp.fc2", width, clip.inner),
            **affine(f"{at}.layer_norm1", width),
            **affine(f"{at}.layer_norm2", width),
        }


def make_tokenizer(out: Path) -> None:
    """Saves a byte-level BPE tokenizer with Phi-3.5-vision's words of control and its template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=TEXT_SHAPE.context,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
    # both files name code of the repository, as Microsoft's do
    settings = out / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8"))
    told |= {"auto_map": PROCESSOR, "processor_class": "Phi3VProcessor"}
    settings.write_text(json.dumps(told, indent=2), encoding="utf-8")
    pictures = {
        "auto_map": PROCESSOR | {"AutoImageProcessor": "processing_phi3_v.Phi3VImageProcessor"},
        "image_processor_type": "Phi3VImageProcessor",
        "num_crops": 4,
        "num_img_tokens": 144,
        "processor_class": "Phi3VProcessor",
    }
    (out / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2), encoding="utf-8")


def values(name: str, shape: tuple[int, ...], seed: int) -> Any:
    """A tensor wide enough that every norm, bias and place shows in the logits."""
    import torch

    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) > 1:
        made = noise / torch.tensor(shape[1:]).prod() ** 0.5
        return (noise if name.endswith(TABLES) else made).bfloat16()
    if name.endswith("bias") or "class_embedding" in name:
        return (0.1 * noise).bfloat16()
    return (1 + 0.1 * noise).bfloat16()


def make(out: Path, clip: Clip, names: str, table: str, single: bool) -> None:
    """Writes the folder."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    make_tokenizer(out)
    (out / "config.json").write_text(json.dumps(config(clip), indent=2) + "\n", encoding="utf-8")
    for code in ("configuration_phi3_v.py", "modeling_phi3_v.py", "processing_phi3_v.py"):
        (out / code).write_text(REPOSITORY_CODE, encoding="utf-8")
    level = "vision_model." if names == "microsoft" else ""
    shards = [*TEXT_SHAPE.shards(), *vision_shards(clip, TEXT_SHAPE.hidden, level)]
    seed, total, where = SEED, 0, {}
    every: dict[str, Any] = {}
    for number, sizes in enumerate(shards, start=1):
        tensors = {}
        for name, size in sizes.items():
            seed += 1
            tensors[name] = values(name, size, seed)
        outer = tensors.get("model.embed_tokens.weight")
        if outer is not None:
            if table != "outer":
                tensors[f"{VISION}wte.weight"] = outer.clone()
            if table == "inner":
                del tensors["model.embed_tokens.weight"]
        every |= tensors if single else {}
        if single:
            continue
        total += sum(tensor.nbytes for tensor in tensors.values())
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, out / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(tensors, file))
    if single:
        save_file(every, out / "model.safetensors", metadata={"format": "pt"})
        return
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--real-vision", action="store_true")
    parser.add_argument("--names", choices=("microsoft", "transformers"), default="microsoft")
    parser.add_argument("--table", choices=("outer", "inner", "both"), default="outer")
    parser.add_argument("--single", action="store_true")
    args = parser.parse_args()
    clip = Clip() if args.real_vision else TINY_CLIP
    make(args.out, clip, args.names, args.table, args.single)


if __name__ == "__main__":
    main()
