"""Small tokenizers of every kind that published models have, trained on a few sentences.

Each is a folder that transformers reads: `tokenizer.json`, written by the library itself, and
`tokenizer_config.json`. All know the markers of all templates of `chat_templates`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

TEXT = [
    "The agent answers prompts on the device itself, also when the network is away.",
    "What is the capital of France? Paris is the capital of France. Count: 1 2 3 10 100 2026.",
    "system user assistant model think im_start im_end INST SYS eot_id end of turn role",
    "Grüße aus München, déjà vu, naïve café, 東京 and Москва; fine ½ ABC.",
    '{"temperature": 21.5, "unit": "celsius", "ok": true} <b>bold</b> [x] | y > z < w',
]
SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|end|>",
    "<|endoftext|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "[INST]", "[/INST]",
)  # fmt: skip
ORDINARY = (
    "<think>", "</think>", "<tool_response>", "</tool_response>", "<|user|>", "<|system|>",
    "<|assistant|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "\n\n", "  ",
)  # fmt: skip
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SIZE = 600

Flags = dict[str, bool]


def _byte_level(prefix: bool = False, words: str = "") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not words)
    split = [pre_tokenizers.Split(Regex(words), "isolated")] if words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer


def _byte_bpe(**options: Any) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
    return _train(_byte_level(**options), trainer)


def _llama(legacy: bool, scheme: str = "first") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*fallback, decoders.Strip(" ", 1, 0)])
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=pieces, show_progress=False, max_token_length=12
    )
    return _train(tokenizer, trainer)


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=pieces, show_progress=False)
    return _train(tokenizer, trainer)


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    pieces = ["<unk>", "<s>", "</s>", "<|im_end|>"]  # a vocabulary with control tokens as words
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=pieces, unk_token="<unk>", show_progress=False
    )
    return _train(tokenizer, trainer)


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=["<unk>"], show_progress=False
    )
    return _train(tokenizer, trainer)


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFD()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = ["<unk>", "</s>", "<|im_end|>"]
    trainer = trainers.WordLevelTrainer(special_tokens=words, show_progress=False)
    return _train(tokenizer, trainer)


def _ignoring_merges() -> Tokenizer:
    tokenizer = _byte_bpe(words=r"\p{N}{1,3}|\s+(?!\S)|\s+|[^\s\p{N}]+")
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    for number, word in enumerate(("<|im_end|>", "</s>")):  # whole words of the vocabulary
        content["model"]["vocab"][word] = SIZE + number
    return Tokenizer.from_str(json.dumps(content))


def _nfc() -> Tokenizer:
    tokenizer = _byte_bpe()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


KINDS: dict[str, tuple[Callable[[], Tokenizer], Flags]] = {
    "byte-bpe": (_byte_bpe, {}),
    "byte-bpe-prefix": (lambda: _byte_bpe(prefix=True), {}),
    "byte-bpe-nfc": (_nfc, {"normalized": True}),
    "ignore-merges": (_ignoring_merges, {}),
    "llama-legacy": (lambda: _llama(legacy=True), {}),
    "llama-metaspace": (lambda: _llama(legacy=False), {}),
    "llama-normalized": (lambda: _llama(legacy=True), {"normalized": True}),
    "gemma": (_gemma, {}),
    "unigram-nfkc": (_unigram, {"normalized": True}),
    "word-piece": (_word_piece, {"lstrip": True}),
    "word-level": (_word_level, {"rstrip": True}),
    "single-word": (_byte_bpe, {"single_word": True, "lstrip": True, "rstrip": True}),
}


def _without_added(tokenizer: Tokenizer) -> Tokenizer:
    """The words that a trainer was given are words of the vocabulary, and no added tokens yet."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content))


def make_tokenizer(
    kind: str,
    folder: Path,
    template: str | None = None,
    special: Sequence[str] = (),
    ordinary: Sequence[str] = (),
) -> Path:
    """Write a folder with a tokenizer of this kind, and with a chat template if one is given.

    It knows `special` and `ordinary` as added tokens besides those that all kinds know.
    """
    make, flags = KINDS[kind]
    tokenizer = _without_added(make())
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, **({"normalized": False} | flags))
            for text in (*SPECIAL, *special)
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(text, special=False, **({"normalized": False} | flags))
            for text in (*ORDINARY, *ordinary)
        ]
    )
    tokenizer.enable_truncation(24)  # what a training run leaves in the file
    tokenizer.enable_padding(length=8)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMED}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    eos = [tokenizer.token_to_id(text) for text in ("</s>", "<|im_end|>")]
    runtime = {"model": {"eos_token_id": eos}, "search": {}}
    (folder / "genai_config.json").write_text(json.dumps(runtime), "utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder
