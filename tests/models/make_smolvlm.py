"""Makes a checkpoint in the exact shape of SmolVLM-256M-Instruct with random weights.

    python make_smolvlm.py OUT [--idefics3] [--real-vision] [--shards] [--side PIXELS]

Run with the toolchain's interpreter. Always the same bytes: every tensor has a seed of its own. The
model is transformers' own class, tiny, and so are its names. `--idefics3` names it as the first
SmolVLM is named on the hub. `--real-vision` makes the part that sees as large as the real one,
beside the same small text part. `--shards` writes several files with an index. `--side` makes views
of another size, of which each patch is a cell.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import argparse
import json
from pathlib import Path
from typing import Any

from make_tiny_model import SEED, TEXT

VOCABULARY = 512
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
# HuggingFaceTB/SmolVLM-256M-Instruct's own
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TINY_SIGHT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 128,
    "patch_size": 8,
}
REAL_SIGHT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
TEXT_PART = {
    "architectures": ["VLlama3ForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "vocab_size": VOCABULARY,
    "pad_token_id": 2,
}


def config(sight: dict[str, int], idefics3: bool) -> dict[str, Any]:
    """config.json, as it is on the hub."""
    name, kind = ("Idefics3", "idefics3") if idefics3 else ("SmolVLM", "smolvlm")
    return {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": kind,
        "image_token_id": SPECIAL.index("<image>"),
        "scale_factor": 4,
        "tie_word_embeddings": False,
        "text_config": TEXT_PART,
        "vision_config": {"model_type": f"{kind}_vision", **sight},
        "vocab_size": VOCABULARY,
    }


def make_tokenizer(out: Path, side: int, rows: int) -> None:
    """Saves a byte-level BPE tokenizer with SmolVLM's control tokens, and the processor's files."""
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
    tokenizer.train_from_iterator(["A line\n\nand another one\n\n"] * 9 + list(TEXT), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=TEXT_PART["max_position_embeddings"],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
    pictures = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SmolVLMImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": side},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 4 * side},
    }
    whole = {"image_seq_len": rows, "processor_class": "SmolVLMProcessor"}
    generation = {
        "bos_token_id": SPECIAL.index("<|im_start|>"),
        "eos_token_id": SPECIAL.index("<end_of_utterance>"),
        "pad_token_id": SPECIAL.index("<|im_end|>"),
    }
    for name, content in (
        ("preprocessor_config.json", pictures),
        ("processor_config.json", whole),
        ("generation_config.json", generation),
    ):
        (out / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def values(name: str, shape: tuple[int, ...], seed: int) -> Any:
    """A tensor wide enough that every norm, bias and place shows in the logits."""
    import torch

    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) > 1:
        made = noise / torch.tensor(shape[1:]).prod() ** 0.5
        wide = name.endswith(("embed_tokens.weight", "position_embedding.weight"))
        return (noise if wide else made).bfloat16()
    return (0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise).bfloat16()


def make(out: Path, sight: dict[str, int], idefics3: bool, shards: bool, scale: int) -> None:
    """Writes the folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForImageTextToText

    out.mkdir(parents=True, exist_ok=True)
    told = config(sight, idefics3) | {"scale_factor": scale}
    grid = sight["image_size"] // sight["patch_size"]
    make_tokenizer(out, sight["image_size"], (grid // told["scale_factor"]) ** 2)
    (out / "config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(out))
    tensors = {
        name: values(name, tuple(tensor.shape), SEED + number)
        for number, (name, tensor) in enumerate(sorted(model.state_dict().items()), start=1)
    }
    if not shards:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return
    names, where = sorted(tensors), {}
    for number in (1, 2):  # each file has pieces of every part
        file = f"model-{number:05}-of-00002.safetensors"
        chosen = {name: tensors[name] for name in names[number - 1 :: 2]}
        save_file(chosen, out / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(chosen, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--idefics3", action="store_true")
    parser.add_argument("--real-vision", action="store_true")
    parser.add_argument("--shards", action="store_true")
    parser.add_argument("--side", type=int, help="pixels of a view's side; each patch is a cell")
    args = parser.parse_args()
    sight = REAL_SIGHT if args.real_vision else TINY_SIGHT
    scale = 4
    if args.side:
        sight, scale = {**sight, "image_size": args.side}, 1
    make(args.out, sight, args.idefics3, args.shards, scale)


if __name__ == "__main__":
    main()
