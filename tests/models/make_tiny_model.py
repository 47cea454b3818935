"""Makes tiny Hugging Face folders with random weights, run with the toolchain's interpreter.

    python make_tiny_model.py qwen2|gemma OUT
    python make_tiny_model.py --many FILE

FILE is a JSON list of `{"out": FOLDER, "architecture": CLASS, "config": CLASS, "values": {…},
"edit": {…}}`: transformers' classes, the configuration's arguments, and what is written into
config.json afterwards. One JSON line on standard output says how each went: `{"out", "error"}`.

Always the same bytes: fixed seed, and a tokenizer trained on the text below. Every dimension is a
multiple of 32, the builder's block size. It speaks no language; it builds, loads and answers.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import argparse
import json
import traceback
from pathlib import Path
from typing import Any

SEED = 20260922
VOCABULARY = 512
TEXT = [
    "The agent answers prompts on the device itself, also when the network is away.",
    "A device always runs a whole, verified release, whatever was killed, cut or filled up.",
    "What is the capital of France? Paris is the capital of France.",
    "Count from one to ten: 1 2 3 4 5 6 7 8 9 10.",
    "Grüße aus München, déjà vu, naïve café, 東京 and Москва.",
    '{"temperature": 21.5, "unit": "celsius", "ok": true}',
]
# Spelled out, because the runtime's own tokenizer assumes it for this model type when it is not.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(out: Path) -> int:
    """Saves a byte-level BPE tokenizer; returns the size of its vocabulary."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
    return len(fast)


def make_model(family: str, out: Path, vocabulary: int) -> None:
    """Saves config and weights."""
    import torch
    from transformers import GemmaConfig, GemmaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    common = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }
    if family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=False))
    else:
        model = GemmaForCausalLM(GemmaConfig(**common, head_dim=32))
    model.save_pretrained(out)


def make_any(out: Path, architecture: str, config: str, values: dict[str, Any]) -> Any:
    """A model of any class of transformers, saved with its tokenizer; returns it.

    Its weights are wide enough that every norm, bias and position shows in the logits, which
    transformers' own first values (0.02 wide, norms at one, biases at zero) would hide.
    """
    import torch
    import transformers

    torch.manual_seed(SEED)
    made = getattr(transformers, config)(**values)
    model = getattr(transformers, architecture)(made).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    model.save_pretrained(out)
    make_tokenizer(out)
    return model


def make_many(file: Path) -> None:
    """See the module's text; what fails does not keep the others from being made."""
    for entry in json.loads(file.read_text(encoding="utf-8")):
        out, error = Path(entry["out"]), ""
        try:
            make_any(out, entry["architecture"], entry["config"], entry["values"])
            config = out / "config.json"
            content = json.loads(config.read_text(encoding="utf-8"))
            config.write_text(json.dumps(_merged(content, entry["edit"]), indent=2), "utf-8")
        except Exception as problem:
            traceback.print_exc()
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        print(json.dumps({"out": str(out), "error": error}), flush=True)


def _merged(content: dict[str, Any], edit: dict[str, Any]) -> dict[str, Any]:
    """`content` with the keys of `edit`, section by section; None takes a key away."""
    nested = {
        key: _merged(content.get(key) or {}, value)
        for key, value in edit.items()
        if isinstance(value, dict)
    }
    return {k: v for k, v in {**content, **edit, **nested}.items() if edit.get(k, v) is not None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("family", choices=["qwen2", "gemma"], nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--many", type=Path)
    args = parser.parse_args()
    if args.many:
        make_many(args.many)
    elif args.family and args.out:
        # rounded up, so that the embedding too is cut into whole blocks
        size = make_tokenizer(args.out)
        make_model(args.family, args.out, -(-size // 32) * 32)
    else:
        parser.error("FAMILY and OUT, or --many FILE")


if __name__ == "__main__":
    main()
