"""Tokenizers as Hugging Face has them, and the keys of a GGUF header that mean them.

Run with the toolchain, from `make_gguf.py`. Each is trained on the text of `make_tiny_model.py`,
and has the rules of a tokenizer in the field: the truth is made of `tokenizers` alone.
"""

# mypy: disable-error-code="import-not-found"
# (the imports inside the functions are the toolchain's)

import json
from pathlib import Path
from typing import Any

from make_tiny_model import QWEN2_WORDS, TEXT

LLAMA_3 = QWEN2_WORDS.replace(r"|\p{N}| ?", r"|\p{N}{1,3}| ?")
SIZE = 480
USER, ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"  # DeepSeek's
_BYTE = "<0x{:02X}>"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _SINGLE = 1, 2, 3, 4, 6
TEXTS = [
    *TEXT,
    "x = 12345; y=  67\n\n\n  z\t7",
    "cafe\u0301 and café, ﬁne, A\u030angstro\u0308m",
    "I'LL say it's 3 o'clock   \r\n\r\n",
    "<|im_start|>user\nHello<|im_end|>\n<think>\n so </think> <|im_end|> x",
    f"{USER}Hello{ASSISTANT} two  blanks",
    "   leading and trailing   ",
    "a" + " " * 11 + "b" + " " * 18 + "c",
    "",
    "\u2581already ▁ marked 😀 नमस्ते",
]


def byte_level(name: str) -> tuple[Any, dict[str, Any]]:
    """A byte-level tokenizer by its name in a header (`tokenizer.ggml.pre`)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    words = {"llama-bpe": LLAMA_3, "qwen2": QWEN2_WORDS, "deepseek-r1-qwen": QWEN2_WORDS}
    raw = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama-bpe"))
    if name in words:
        split = pre.Split(Regex(words[name]), "isolated")
        tokenizer.pre_tokenizer = pre.Sequence([split, raw])
    elif name == "smollm":
        digits = pre.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre.Sequence([digits, pre.ByteLevel(add_prefix_space=False)])
    else:
        tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    if name in ("qwen2", "deepseek-r1-qwen"):  # Qwen2Tokenizer has it for both
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if name == "deepseek-r1-qwen":
        control += [USER, ASSISTANT]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=control,
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if name == "llama-bpe":  # words that no merges lead to
        spec = json.loads(tokenizer.to_str())
        spec["model"]["merges"] = spec["model"]["merges"][:-60]
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    types = dict.fromkeys(control, _CONTROL) | {"<think>": _USER}
    return tokenizer, _keys(tokenizer, name, types)


def _keys(tokenizer: Any, name: str, types: dict[str, int]) -> dict[str, Any]:
    ids = tokenizer.get_vocab()
    words = sorted(ids, key=ids.__getitem__)
    model = json.loads(tokenizer.to_str())["model"]
    return {
        "ggml.model": "gpt2",
        "ggml.pre": name,
        "ggml.tokens": words,
        "ggml.token_type": [types.get(word, _NORMAL) for word in words],
        "ggml.merges": [" ".join(pair) for pair in model["merges"]],
    }


def sentencepiece(name: str) -> tuple[Any, dict[str, Any]]:
    """A tokenizer over characters: `llama`, `llama-bare` (adds no blank), `phi3` or `gemma2`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    first = ["<unk>", "<s>", "</s>"] + [_BYTE.format(byte) for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=SIZE, special_tokens=first, show_progress=False)
    )
    spec = json.loads(trained.to_str())["model"]
    vocab, merges = spec["vocab"], [tuple(pair) for pair in spec["merges"]]
    # SentencePiece orders merges by the score of what they make
    merges = sorted(merges, key=lambda pair: vocab["".join(pair)])
    runs = ["▁" * length for length in range(2, 9)] if name == "gemma2" else []
    vocab |= {run: len(vocab) + number for number, run in enumerate(runs)}
    pairs = [
        ("▁" * left, "▁" * right) for left in range(7, 0, -1) for right in range(8 - left, 0, -1)
    ]
    merges = (pairs if runs else []) + merges
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    strip = [decoders.Strip(content=" ", left=1)]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if name == "phi3":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    elif name == "gemma2":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre.Split(Regex(" "), "merged_with_previous")
        strip = []
    else:
        scheme = "never" if name == "llama-bare" else "first"
        tokenizer.pre_tokenizer = pre.Metaspace(prepend_scheme=scheme, split=False)
        strip = [] if name == "llama-bare" else strip
    tokenizer.decoder = decoders.Sequence(steps + strip)
    control = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    kept = ("<s>",) if name == "phi3" else tuple(control)
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False, rstrip=word not in kept) for word in control]
    )
    types = dict.fromkeys(control, _CONTROL) | {"<unk>": _UNKNOWN}
    tokenizer.add_tokens([AddedToken(run, normalized=False, special=False) for run in runs])
    types |= dict.fromkeys(runs, _USER)
    types |= {_BYTE.format(byte): _SINGLE for byte in range(256)}
    keys = _keys(tokenizer, "default", types)
    scores = [0.0 if number < len(first) else -float(number) for number in range(len(vocab))]
    scores += [-1000.0] * (len(keys["ggml.tokens"]) - len(scores))
    keys |= {"ggml.model": "llama", "ggml.merges": None, "ggml.scores": scores}
    # llama.cpp writes the blanks of user-defined tokens as such
    keys["ggml.tokens"] = [
        word.replace("▁", " ") if word in runs else word for word in keys["ggml.tokens"]
    ]
    if name in ("llama-bare", "gemma2"):
        keys["ggml.add_space_prefix"] = False
    return tokenizer, keys


def write_vocabulary(name: str, out: Path) -> dict[str, Any]:
    """Write the truth, `truth.json`; return the keys of the header."""
    piece = name in ("llama", "llama-bare", "phi3", "gemma2")
    tokenizer, keys = sentencepiece(name) if piece else byte_level(name)
    tokenizer.save(str(out / "truth.json"))
    return keys


def differences(truth: Path, made: Path) -> list[dict[str, Any]]:
    """The texts that tokenizer.json and a folder's tokenizer encode or decode differently."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    first = Tokenizer.from_file(str(truth))
    second = AutoTokenizer.from_pretrained(made).backend_tokenizer
    found = []
    for text in TEXTS:
        ids = [each.encode(text, add_special_tokens=False).ids for each in (first, second)]
        back = [each.decode(ids[0]) for each in (first, second)]
        if ids[0] != ids[1] or back[0] != back[1]:
            found.append({"text": text, "ids": ids, "back": back})
    return found
